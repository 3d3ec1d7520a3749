from types import SimpleNamespace

import pytest

from letkd_keras.recipes.trainings import sharing


def test_the_workers_of_a_scope_end_with_it():
    four = SimpleNamespace(devices=4)
    with sharing.by(four) as group:
        assert group is sharing.current() is four
        assert sharing.devices() == 4
        with sharing.by(None):
            assert (sharing.current(), sharing.devices()) == (None, 1)
        assert sharing.current() is four
    with pytest.raises(KeyboardInterrupt), sharing.by(four):
        raise KeyboardInterrupt
    assert (sharing.current(), sharing.devices()) == (None, 1)
