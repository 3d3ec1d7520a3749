"""What runs in at least float32, whatever the dtype policy is."""

import keras
from keras import ops


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
