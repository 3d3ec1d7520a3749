import pytest

from letkd_keras.distillers.jax_step import TrainStep


class IndivisibleError(Exception):
    """Has the name of JAX's error since 0.6."""


class _Trainer:
    def __init__(self, error):
        self.error = error

    def _fail(self):
        raise self.error

    fit = evaluate = predict = _fail

    def jax_state_sync(self):
        self.is_synced = True


class _Distiller(TrainStep, _Trainer):
    teacher_graph = None


@pytest.mark.parametrize(
    ("error", "noted"),
    [
        (IndivisibleError("3 by 2"), True),
        (ValueError("its size should be divisible by 2"), True),
        (ValueError("something else"), False),
    ],
)
def test_batches_that_devices_cannot_share_are_explained(error, noted):
    distiller = _Distiller(error)
    for use in (distiller.fit, distiller.evaluate, distiller.predict):
        distiller.is_synced = False
        with pytest.raises(type(error)) as raised:
            use()
        assert raised.value is error
        assert distiller.is_synced
    notes = getattr(error, "__notes__", [])
    assert len(notes) == noted
    assert all("multiple of the number of devices" in note for note in notes)
