"""Layers that compute as an integer file will: values are rounded, gradients pass through."""

import keras
from keras import ops

from letkd_keras.layers.grouped_convolution import GroupedConv2D
from letkd_keras.layers.kd_layer import KDLayer
from letkd_keras.layers.l2_normalization import inverse_norm, l2_normalize
from letkd_keras.precision import at_least_float32, keep_float32_weights
from letkd_keras.ranges import Integer, fraction

_SMALLEST_RANGE = 1e-6
_BITS = Integer(2, 16)


@keras.saving.register_keras_serializable("letkd_keras")
class FakeQuantization(keras.layers.Layer):
    """Rounds activations to the values that an integer of a few bits can represent.

    In training, the range of the values is a moving average of the smallest and the largest value
    of each batch. It starts as the plain average, so that no range has to be guessed. It always
    contains 0, which is represented exactly. Values outside the range are clipped and have no
    gradient; the others are rounded, and their gradient passes unchanged. Before the first batch of
    a training, the layer returns its input. The range is in at least float32 under every dtype
    policy, as in `KDLayer`.

    Args:
        bits: Number of bits, from 2 to 16.
        momentum: Share of the old range that a step keeps, at least 0 and less than 1.
        **kwargs: Keras' layer arguments.

    Call arguments:
        inputs: Tensor of any shape.
        training: Whether the range is updated.

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Jacob et al. "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", CVPR 2018, section 3.
    """

    def __init__(self, bits=8, momentum=0.99, **kwargs):
        super().__init__(**kwargs)
        keep_float32_weights(self)
        self.bits = _BITS.check(bits, "bits")
        self.momentum = fraction.check(momentum, "momentum")
        self.supports_masking = True

    def build(self, input_shape):
        for name in ("minimum", "maximum", "batches"):
            weight = self.add_weight(
                name=name,
                shape=(),
                initializer="zeros",
                trainable=False,
                autocast=False,
                aggregation="mean",
            )
            setattr(self, name, weight)
        self.built = True

    def call(self, inputs, training=None):
        minimum, maximum, batches = (
            ops.convert_to_tensor(weight) for weight in (self.minimum, self.maximum, self.batches)
        )
        if training and self.trainable:
            values = at_least_float32(ops.stop_gradient(inputs))
            kept = ops.minimum(self.momentum, batches / (batches + 1.0))
            minimum = kept * minimum + (1.0 - kept) * ops.minimum(ops.min(values), 0.0)
            maximum = kept * maximum + (1.0 - kept) * ops.maximum(ops.max(values), 0.0)
            batches = batches + 1.0
            self.minimum.assign(minimum)
            self.maximum.assign(maximum)
            self.batches.assign(batches)
        rounded = keras.quantizers.fake_quant_with_min_max_vars(
            inputs, minimum, ops.maximum(maximum, minimum + _SMALLEST_RANGE), num_bits=self.bits
        )
        return ops.where(batches > 0, rounded, inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "bits": self.bits, "momentum": self.momentum}


def fake_quantize_kernel(kernel, bits=8):
    """Round a kernel to integers, symmetric about 0, with one scale for each output channel.

    A factor for each output channel, such as that of a batch normalization that is folded into the
    kernel later, scales the rounded kernel and changes nothing else. So a kernel can be rounded
    before it is folded.

    Args:
        kernel: Tensor whose last axis has the output channels.
        bits: Number of bits.

    Returns:
        A tensor like `kernel`. Gradients pass unchanged.
    """

    # The gradient of Keras' function is 0 where a rounding error puts the largest value outside the
    # range.
    @ops.custom_gradient
    def of(kernel):
        axes = tuple(range(len(kernel.shape) - 1))
        largest = ops.maximum(ops.max(ops.abs(kernel), axis=axes), _SMALLEST_RANGE)
        rounded = keras.quantizers.fake_quant_with_min_max_vars(
            kernel, -largest, largest, num_bits=bits, narrow_range=True, axis=-1
        )
        return rounded, lambda upstream: upstream

    # TensorFlow's custom gradient accepts tensors but no variables.
    return of(ops.copy(kernel))


class _FakeQuantizedKernel:
    """A layer of Keras whose kernel is rounded in each call.

    Args:
        *args: The layer's arguments.
        weight_bits: Number of bits of the kernel, from 2 to 16.
        **kwargs: The layer's arguments.
    """

    def __init__(self, *args, weight_bits=8, **kwargs):
        super().__init__(*args, **kwargs)
        self.weight_bits = _BITS.check(weight_bits, "weight_bits")

    def call(self, inputs, **kwargs):
        # All variables are in the scope: on JAX their values may be those of an outer scope.
        values = [(variable, variable.value) for variable in self.variables]
        rounded = (self.kernel, self._rounded_kernel())
        with keras.StatelessScope([*values, rounded]):
            return super().call(inputs, **kwargs)

    def _rounded_kernel(self):
        return fake_quantize_kernel(self.kernel, self.weight_bits)

    def get_config(self):
        return {**super().get_config(), "weight_bits": self.weight_bits}


@keras.saving.register_keras_serializable("letkd_keras")
class FakeQuantizedConv2D(_FakeQuantizedKernel, keras.layers.Conv2D):
    """`keras.layers.Conv2D` with a rounded kernel; `weight_bits` is the number of its bits."""


@keras.saving.register_keras_serializable("letkd_keras")
class FakeQuantizedGroupedConv2D(_FakeQuantizedKernel, GroupedConv2D):
    """`GroupedConv2D` with a rounded kernel; `weight_bits` is the number of its bits."""


@keras.saving.register_keras_serializable("letkd_keras")
class FakeQuantizedDense(_FakeQuantizedKernel, keras.layers.Dense):
    """`keras.layers.Dense` with a rounded kernel; `weight_bits` is the number of its bits."""


@keras.saving.register_keras_serializable("letkd_keras")
class FakeQuantizedDepthwiseConv2D(_FakeQuantizedKernel, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` with a rounded kernel of `weight_bits` bits."""

    def _rounded_kernel(self):
        # A depthwise kernel [kh, kw, C, m] has its outputs on the last two axes.
        kernel = ops.reshape(self.kernel, (*self.kernel.shape[:2], -1))
        return ops.reshape(fake_quantize_kernel(kernel, self.weight_bits), self.kernel.shape)


@keras.saving.register_keras_serializable("letkd_keras")
class FakeQuantizedKDLayer(KDLayer):
    """`KDLayer` that computes as an integer file of the folded layer will.

    Its two kernels, the normalized features, the responses and the values are rounded. The scores
    that a distiller supervises are those of the rounded kernel and features.

    With `pool_output` the mean of the normalized responses and the values of an image are rounded,
    as in the folded layer. Without it the values and the output of each location are rounded. Both
    calls have ranges of their own. A distiller trains a layer before a global average pooling with
    `pool_output`. Then there are no ranges for the values and the output of single locations, and a
    call without `pool_output` does not round these.

    Args:
        *args: Arguments of `KDLayer`.
        weight_bits: Number of bits of the kernels, from 2 to 16.
        bits: Number of bits of the activations, likewise.
        momentum_of_ranges: `momentum` of the ranges, see `FakeQuantization`.
        **kwargs: Arguments of `KDLayer`.

    Raises:
        ValueError: If an argument is out of its range, or as `KDLayer`.
    """

    supports_blocks = False  # the ranges are those of the whole batch

    def __init__(self, *args, weight_bits=8, bits=8, momentum_of_ranges=0.99, **kwargs):
        super().__init__(*args, **kwargs)
        self.weight_bits = _BITS.check(weight_bits, "weight_bits")
        self.bits = _BITS.check(bits, "bits")
        self.momentum_of_ranges = fraction.check(momentum_of_ranges, "momentum_of_ranges")

    def build(self, input_shape):
        super().build(input_shape)
        # After the weights of `KDLayer`, which come first in `weights`.
        self._directions = self._range("directions")
        if self.alpha > 0:
            self._responses = self._range("responses")
            # With and without pooling: the values of single locations are larger than their means.
            self._means, self._mean_values = self._range("means"), self._range("mean_values")
            self._values, self._outputs = self._range("values"), self._range("outputs")

    def _range(self, name):
        layer = FakeQuantization(
            self.bits,
            self.momentum_of_ranges,
            trainable=self.trainable,
            dtype=keras.backend.result_type(self.compute_dtype, "float32"),
            name=f"{name}_range",
        )
        layer.build(())
        return layer

    def call(self, inputs, training=None, return_scores=False, pool_output=False):
        axis = self.channel_axis
        directions = self._directions(l2_normalize(inputs, axis), training=training)
        scores = self._convolve(directions, self._unit_columns(self.template_kernel))
        scores = scores * ops.cast(self.template_scale, scores.dtype)
        outputs = ops.mean(inputs, axis=self.location_axes) if pool_output else inputs
        if self.alpha == 0:
            return (outputs, scores) if return_scores else outputs
        responses = ops.relu(self.batch_normalization(scores, training=training))
        responses = self._responses(at_least_float32(responses), training=training)
        directions = l2_normalize(responses, axis)
        kernel = self.alpha * self.value_scale * self._unit_columns(self.value_kernel)
        if pool_output:
            # As in the folded layer, the second convolution runs once for each image.
            means = ops.mean(directions, axis=self.location_axes)
            means = self._means(means, training=training)
            values = self._mean_values(ops.matmul(means, kernel), training=training)
            outputs = at_least_float32(outputs) + values
        else:
            values = at_least_float32(self._convolve(directions, kernel))
            values = self._values(values, training=training)
            outputs = self._outputs(at_least_float32(outputs) + values, training=training)
        outputs = ops.cast(outputs, self.compute_dtype)
        return (outputs, scores) if return_scores else outputs

    def _unit_columns(self, kernel):
        return fake_quantize_kernel(kernel, self.weight_bits) * inverse_norm(kernel, 0)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_bits": self.weight_bits,
            "bits": self.bits,
            "momentum_of_ranges": self.momentum_of_ranges,
        }


# Layers of a network, and those that take their place.
FAKE_QUANTIZED = {
    keras.layers.Conv2D: FakeQuantizedConv2D,
    GroupedConv2D: FakeQuantizedGroupedConv2D,
    keras.layers.DepthwiseConv2D: FakeQuantizedDepthwiseConv2D,
    keras.layers.Dense: FakeQuantizedDense,
    KDLayer: FakeQuantizedKDLayer,
}
