"""Float64 throughout, on both backends, so that differences of a wrong computation can be seen."""

import keras


def compute_in_float64():
    """Have Keras compute in float64. Call it before anything is computed.

    On JAX, Keras' rules for types of results never give float64, whatever `floatx` and JAX's own
    switch say: batch normalization, means and losses are then computed in float32. Nothing public
    changes these rules, so this function empties their table.
    """
    keras.config.set_floatx("float64")
    if keras.backend.backend() == "jax":
        import jax
        from keras.src.backend.common import dtypes

        jax.config.update("jax_enable_x64", True)
        dtypes.BIT64_TO_BIT32_DTYPE.clear()
    assert keras.backend.result_type("float64", "float32") == "float64"
