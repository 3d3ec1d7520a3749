import importlib.util
import json

import pytest
from in_a_process import in_a_process


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_memory_in_blocks_does_not_grow_with_the_batch_on_jax():
    done = in_a_process("memory_in_blocks_on_jax.py", KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    sizes = json.loads(done.stdout)
    of_a_tensor = 4 * 16 * 8 * 8 * 512
    assert sizes["16"][1] > of_a_tensor
    assert sizes["64"][1] > 3.5 * sizes["16"][1]
    # What 48 further images add are their features, a few times. How much the tensors of two images
    # take depends on the processor that XLA compiles for.
    features = 4 * 48 * 8 * 8 * 16
    assert sizes["64"][0] - sizes["16"][0] < 4 * features
    assert sizes["64"][0] < sizes["64"][1] / 8
