"""The dtype policy: a scope that sets it, and what is in at least float32 under each."""

from contextlib import contextmanager

import keras
from keras import ops


@contextmanager
def dtype_policy(policy):
    """A scope in which layers are made with another dtype policy than the one set in Keras.

    Args:
        policy: Name of the policy, such as `"float32"` or `"mixed_bfloat16"`.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def at_least_float32(x):
    """`x` in float32 if it is of lower precision."""
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def keep_float32_weights(layer):
    """Replace a layer's policy float16 or bfloat16 by the mixed one, whose weights are float32.

    Args:
        layer: `keras.layers.Layer` without weights yet.
    """
    if layer.variable_dtype in ("float16", "bfloat16"):
        layer.dtype_policy = f"mixed_{layer.variable_dtype}"
