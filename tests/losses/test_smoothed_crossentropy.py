import keras
import numpy as np
import pytest

from letkd_keras.losses import SmoothedCrossentropy

LOGITS = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, -1.0]], "float32")
LABELS = np.array([0, 2])


def expected(smoothing):
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    targets = smoothing / 3 + (1 - smoothing) * np.eye(3)[LABELS]
    return -np.sum(targets * log_p, axis=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothed_labels_by_hand(smoothing):
    loss = SmoothedCrossentropy(smoothing)
    for labels in (LABELS, LABELS[:, None]):
        assert float(loss(labels, LOGITS)) == pytest.approx(expected(smoothing).mean(), rel=1e-6)


def test_weights_of_samples_count():
    weights = np.array([2.0, 0.5], "float32")
    loss = SmoothedCrossentropy(0.3, reduction="sum")(LABELS, LOGITS, weights)
    assert float(loss) == pytest.approx(np.sum(weights * expected(0.3)), rel=1e-6)


def test_the_loss_survives_its_config():
    loss = SmoothedCrossentropy(0.3, reduction="sum", name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, SmoothedCrossentropy)
    assert again.get_config() == loss.get_config()
    assert again.get_config()["reduction"] == "sum"


def test_a_share_of_one_or_more_is_refused():
    with pytest.raises(
        ValueError, match=r"`label_smoothing` must be .*Received: label_smoothing=1"
    ):
        SmoothedCrossentropy(1.0)
