import keras
from keras import ops

from letkd_keras.precision import at_least_float32

# No vector is divided by a smaller norm. The square, 1e-24, needs float32, so normalization runs
# in at least float32 under every dtype policy.
_SMALLEST_NORM = 1e-12

# The smallest normal number of float16. A shorter vector has no useful direction in float16.
_SMALLEST_FLOAT16_NORM = 2.0**-14


def inverse_norm(x, axis):
    """The factor that l2-normalizes `x` along `axis`, in at least float32.

    Args:
        x: Tensor of any shape and float type.
        axis: Axis of the norm.

    Returns:
        `1 / max(||x||, 1e-12)`, of the shape of `x` with size 1 along `axis`. The maximum is taken
        inside the root, so that the gradient at a vector of zeros is finite. For a float16 `x` the
        factor is 0 where the norm is below 2^-14, because 1e12 is infinite in float16 and infinity
        times zero is NaN.
    """

    # This gradient creates one tensor of the size of x. The automatic one creates four.
    @ops.custom_gradient
    def of(x):
        square_sum = ops.sum(ops.square(at_least_float32(x)), axis=axis, keepdims=True)
        inverse = ops.rsqrt(ops.maximum(square_sum, _SMALLEST_NORM**2))
        if keras.backend.standardize_dtype(x.dtype) == "float16":
            inverse = ops.where(square_sum < _SMALLEST_FLOAT16_NORM**2, 0.0, inverse)

        def gradient(upstream):
            slope = ops.where(square_sum > _SMALLEST_NORM**2, -upstream * inverse**3, 0.0)
            return ops.cast(slope * at_least_float32(x), x.dtype)

        return inverse, gradient

    # TensorFlow's custom gradient accepts tensors but no variables.
    return of(ops.copy(x))


def l2_normalize(x, axis):
    """`x` with vectors of length 1 along `axis`, in at least float32; zeros stay zeros.

    Unlike that of `keras.ops.normalize`, the gradient at a vector of zeros is finite with XLA and
    on JAX, too.

    Args:
        x: Tensor of any shape and float type.
        axis: Axis of the norm.

    Returns:
        Tensor of the shape of `x`.
    """
    return at_least_float32(x) * inverse_norm(x, axis)
