import keras
import numpy as np
import pytest

from letkd_keras.precision import at_least_float32, dtype_policy, keep_float32_weights


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_lower_precision_becomes_float32(dtype, expected):
    x = at_least_float32(np.ones(2, dtype))
    assert keras.backend.standardize_dtype(x.dtype) == expected


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("bfloat16", "mixed_bfloat16"), ("mixed_float16", "mixed_float16"), ("float64", "float64")],
)
def test_half_precision_policies_become_mixed(policy, expected):
    layer = keras.layers.Dense(2, dtype=policy)
    keep_float32_weights(layer)
    assert layer.dtype_policy.name == expected


def test_the_policy_of_a_scope_ends_with_it():
    before = keras.config.dtype_policy().name
    with pytest.raises(KeyError), dtype_policy("mixed_bfloat16"):
        assert keras.layers.Dense(2).compute_dtype == "bfloat16"
        raise KeyError
    assert keras.config.dtype_policy().name == before
