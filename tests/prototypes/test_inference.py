import importlib.util

import pytest
from in_a_process import in_a_process


def test_two_replicas_share_each_batch_and_give_what_one_gives():
    done = in_a_process("replicated_teacher.py")
    assert done.stdout.split() == ["equal"], done.stderr[-3000:]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_needs_no_tensorflow(tmp_path):
    done = in_a_process("prototypes_without_tensorflow.py", tmp_path / "p.npz", KERAS_BACKEND="jax")
    assert done.stdout.split() == ["fitted"], done.stderr[-3000:]
