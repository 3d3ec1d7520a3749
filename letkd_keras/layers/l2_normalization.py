import keras
from keras import ops

from letkd_keras.precision import at_least_float32

# A vector that is not longer counts as zero. The square, 1e-24, needs float32, so normalization
# runs in at least float32 under every dtype policy.
_SMALLEST_NORM = 1e-12

# The smallest normal number of float16. A shorter vector has no useful direction in float16.
_SMALLEST_FLOAT16_NORM = 2.0**-14


def inverse_norm(x, axis):
    """The factor that l2-normalizes `x` along `axis`, in at least float32.

    Args:
        x: Tensor of any shape and float type.
        axis: Axis of the norm.

    Returns:
        `1 / ||x||`, of the shape of `x` with size 1 along `axis`, and 0 where the norm is at most
        1e-12 (2^-14 for a float16 `x`). PyTorch's `normalize` divides by 1e-12 there, which gives
        the same zeros. But its gradient at a vector of zeros is 1e12 times as large as the
        gradient of the result. One step would destroy the weights of a network without a ReLU
        before the normalization.
    """

    # This gradient creates one tensor of the size of x. The automatic one creates four.
    @ops.custom_gradient
    def of(x):
        square_sum = ops.sum(ops.square(at_least_float32(x)), axis=axis, keepdims=True)
        is_half = keras.backend.standardize_dtype(x.dtype) == "float16"
        smallest = (_SMALLEST_FLOAT16_NORM if is_half else _SMALLEST_NORM) ** 2
        inverse = ops.rsqrt(ops.maximum(square_sum, smallest))
        inverse = ops.where(square_sum > smallest, inverse, 0.0)

        def gradient(upstream):
            return ops.cast(-upstream * inverse**3 * at_least_float32(x), x.dtype)

        return inverse, gradient

    # TensorFlow's custom gradient accepts tensors but no variables.
    return of(ops.copy(x))


def l2_normalize(x, axis):
    """`x` with vectors of length 1 along `axis`, in at least float32; zeros stay zeros.

    Unlike that of `keras.ops.normalize`, the gradient at a vector of zeros is zero: see
    `inverse_norm`.

    Args:
        x: Tensor of any shape and float type.
        axis: Axis of the norm.

    Returns:
        Tensor of the shape of `x`.
    """
    return at_least_float32(x) * inverse_norm(x, axis)
