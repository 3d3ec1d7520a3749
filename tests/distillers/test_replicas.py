import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from in_a_process import in_a_process

PROGRAMS = Path(__file__).parents[1] / "programs"


def _run(program, file, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *arguments, str(file)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(file) as arrays:
        return dict(arrays)


def _check_same(one, two, rtol, atol):
    assert (one.pop("replicas"), two.pop("replicas")) == (1, 2)
    assert one.keys() == two.keys()
    losses = ("loss", "task_loss", "kl_penultimate", "kl_intermediate", "kd", "keras")
    assert {f"log {name}" for name in losses} <= one.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
@pytest.mark.parametrize(
    ("floatx", "tolerance", "block", "epochs"),
    [("float64", 1e-11, 0, 2), ("float64", 1e-11, 3, 2), ("float32", 1e-5, 0, 1)],
)
def test_two_replicas_train_as_one_device_at_the_same_batch(
    tmp_path, floatx, tolerance, block, epochs
):
    """With batch statistics over all replicas only roundings differ.

    In float64 they are 6e-13 after six steps. In float32 they are about 1e-7 after one step, and
    each further step multiplies them by about four, so that it depends on the processor what six
    steps make of them. So three steps are compared, which made 4e-6 at most, with and without
    oneDNN. Statistics of each replica by itself would make 1e-2. One device computes without blocks
    of images, so they are compared too.
    """
    program = "train_on_replicas.py"
    one = _run(program, tmp_path / "1.npz", "1", floatx, "0", str(epochs))
    two = _run(program, tmp_path / "2.npz", "2", floatx, str(block), str(epochs))
    _check_same(one, two, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_a_step_that_fails_on_jax_leaves_the_weights():
    """What devices cannot share is explained, and so is a batch without labels."""
    flags = "--xla_force_host_platform_device_count=2"
    done = in_a_process("failed_steps_on_jax.py", KERAS_BACKEND="jax", XLA_FLAGS=flags)
    assert done.stdout.split() == ["weights", "stay"], done.stderr[-3000:]


def _on_jax_devices(devices, batch_size, floatx, block_size, folder):
    return _run(
        "train_on_jax_devices.py",
        folder / f"{devices}.npz",
        str(batch_size),
        floatx,
        str(block_size),
        KERAS_BACKEND="jax",
        XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
    )


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize(
    ("floatx", "tolerance", "block"),
    [("float64", 1e-11, 0), ("float64", 1e-11, 4), ("float32", 2e-5, 4)],
)
def test_two_jax_devices_train_as_one_at_the_same_batch(tmp_path, floatx, tolerance, block):
    one = _on_jax_devices(1, 16, floatx, 0, tmp_path)
    two = _on_jax_devices(2, 16, floatx, block, tmp_path)
    _check_same(one, two, rtol=tolerance, atol=min(tolerance, 2e-6))
    with pytest.raises(AssertionError, match="must be a multiple of the number of devices"):
        _on_jax_devices(2, 15, floatx, block, tmp_path)
