import keras
from keras import ops

from letkd_keras.data_format import (
    data_format_or_default,
    from_channels_last,
    to_channels_last,
)
from letkd_keras.layers.image_blocks import map_images
from letkd_keras.layers.l2_normalization import inverse_norm, l2_normalize
from letkd_keras.layers.score_moments import pointwise_conv, score_moments
from letkd_keras.layers.torch_batch_normalization import TorchBatchNormalization
from letkd_keras.precision import at_least_float32, keep_float32_weights
from letkd_keras.ranges import (
    finite_number,
    fraction,
    non_negative_number,
    positive_integer,
    positive_number,
)


@keras.saving.register_keras_serializable("letkd_keras")
class KDLayer(keras.layers.Layer):
    """Knowledge distillation layer that lets the student decide (letKD, section 3).

    A residual block of 1x1 - BN - ReLU - 1x1 inside the student. The first 1x1 convolution holds
    `templates` trainable templates. Its outputs are the *scores*. A distiller trains the scores of
    a location to agree with the teacher's soft targets for it. The second convolution holds one
    trainable *value vector* for each template. The layer adds the weighted sum of these vectors to
    the features. So the student decides how to use what was detected. The layer remains in the
    student at inference.

    With `x` of C channels, K templates and both kernels as cosine similarities:

        scores = s1 * normalize(x) @ normalize(W1)       W1 [C, K], columns normalized over C
        p      = relu(BN(scores))
        value  = s2 * normalize(p) @ normalize(W2)       W2 [K, C], columns normalized over K
        x_hat  = x + alpha * value

    Normalization, BN statistics and scales run in at least float32 under every dtype policy. The
    two matrix products run in the compute dtype of the policy. All weights are at least float32:
    the policies float16 and bfloat16 become mixed_float16 and mixed_bfloat16.

    Args:
        templates: Number of templates K, at least 1.
        alpha: Weight of the value added to the features, 0 or more (`value_ratio` in the authors'
            program). With 0 the layer only supervises: it returns its input and has no value
            weights.
        initial_template_scale: Initial value of the trainable scale s1 of the scores.
        initial_value_scale: Initial value of the trainable scale s2 of the values.
        momentum: BN momentum in Keras' sense, at least 0 and less than 1.
        epsilon: BN epsilon, more than 0.
        kernel_initializer: Initializer of both kernels, or a function of shape and dtype. `None` is
            that of the authors' program, normal with standard deviation sqrt(2 / input channels).
            One with a seed starts both kernels with the same numbers where K = C.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        synchronized: Whether BN statistics are taken over all replicas. `None` means yes if the
            layer is built in the scope of a strategy with several replicas.
        **kwargs: Keras' layer arguments (`name`, `dtype`, `trainable`).

    Call arguments:
        inputs: Features [B, H, W, C] (or [B, C, H, W]).
        training: Whether BN uses and updates batch statistics.
        return_scores: Whether to return `(x_hat, scores)`, the scores before BN, [B, H, W, K] (or
            [B, K, H, W]), rather than `x_hat`.
        pool_output: Whether to return the global average of `x_hat`, [B, C]. The value convolution
            is linear, so it can run once per image, after the average, instead of once per
            location. The result is the same.

    Raises:
        ValueError: If an argument is out of its range, the input does not have four dimensions or
            its number of channels is unknown.

    Reference:
        Görgün, Gürbüz, Alatan. "Knowledge Distillation Layer that Lets the Student Decide", BMVC
        2023, arXiv:2309.02843. Scales, initialization and epsilons follow the authors' program.
    """

    # Whether `call_in_blocks` computes what `call` does.
    supports_blocks = True

    def __init__(
        self,
        templates,
        alpha=1.0,
        initial_template_scale=3.0,
        initial_value_scale=1.0,
        momentum=0.9,
        epsilon=1e-5,
        kernel_initializer=None,
        data_format=None,
        synchronized=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        keep_float32_weights(self)
        self.templates = positive_integer.check(templates, "templates")
        self.alpha = non_negative_number.check(alpha, "alpha")
        self.initial_template_scale = finite_number.check(
            initial_template_scale, "initial_template_scale"
        )
        self.initial_value_scale = finite_number.check(initial_value_scale, "initial_value_scale")
        self.momentum = fraction.check(momentum, "momentum")
        self.epsilon = positive_number.check(epsilon, "epsilon")
        if kernel_initializer is None:
            kernel_initializer = keras.initializers.VarianceScaling(
                scale=2.0, mode="fan_in", distribution="untruncated_normal"
            )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.data_format = data_format_or_default(data_format)
        self.synchronized = synchronized
        self.channel_axis = -1 if self.data_format == "channels_last" else 1
        self.location_axes = (1, 2) if self.data_format == "channels_last" else (2, 3)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.batch_normalization = None

    def build(self, input_shape):
        channels = input_shape[self.channel_axis]
        if channels is None:
            raise ValueError(
                "KDLayer needs a known number of channels. "
                f"Received: input_shape={input_shape}, data_format={self.data_format!r}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={self.channel_axis: channels})
        self.template_kernel = self.add_weight(
            name="template_kernel",
            shape=(channels, self.templates),
            initializer=self._new_initializer(),
            autocast=False,
        )
        self.template_scale = self._add_scale("template_scale", self.initial_template_scale)
        if self.alpha > 0:
            self.value_kernel = self.add_weight(
                name="value_kernel",
                shape=(self.templates, channels),
                initializer=self._new_initializer(),
                autocast=False,
            )
            self.value_scale = self._add_scale("value_scale", self.initial_value_scale)
            self.batch_normalization = TorchBatchNormalization(
                axis=self.channel_axis,
                momentum=self.momentum,
                epsilon=self.epsilon,
                synchronized=self.synchronized,
                trainable=self.trainable,
                dtype=self.dtype_policy,
                name="batch_normalization",
            )
            self.batch_normalization.build(self._scores_shape(input_shape))
        self.built = True

    def _new_initializer(self):
        # An initializer draws the same numbers for equal shapes each time. A clone of one without a
        # seed draws others, so that two square kernels do not start equal.
        initializer = self.kernel_initializer
        is_object = isinstance(initializer, keras.initializers.Initializer)
        return initializer.clone() if is_object else initializer

    def _add_scale(self, name, start):
        return self.add_weight(
            name=name, shape=(), initializer=keras.initializers.Constant(start), autocast=False
        )

    def call(self, inputs, training=None, return_scores=False, pool_output=False):
        scores = self.scores(inputs)
        outputs = ops.mean(inputs, axis=self.location_axes) if pool_output else inputs
        if self.alpha > 0:
            responses = ops.relu(self.batch_normalization(scores, training=training))
            inverse = inverse_norm(responses, self.channel_axis)
            if pool_output:
                responses, inverse = (
                    to_channels_last(x, self.data_format) for x in (responses, inverse)
                )
                outputs = outputs + self._value(self._mean_direction(responses, inverse))
            else:
                # Dividing the values of a location by the norm of its responses is the same as
                # dividing the responses.
                value = at_least_float32(self._convolve(responses, self._value_kernel()))
                outputs = outputs + ops.cast(value * inverse, self.compute_dtype)
        return (outputs, scores) if return_scores else outputs

    def call_in_blocks(self, inputs, block_size, training=None, pool_output=False):
        """The output of `call` without a tensor of the size of all scores.

        Scores and responses are computed for a block of images at a time, three times in a training
        step: for the batch statistics, for the output and in the backward pass. Output, gradients
        and running statistics are those of `call`, up to rounding.

        Args:
            inputs: As in `call`.
            block_size: Images of a block.
            training: As in `call`.
            pool_output: As in `call`.

        Returns:
            `x_hat`, or its global average.
        """
        features = ops.mean(inputs, axis=self.location_axes) if pool_output else inputs
        if self.alpha == 0:
            return features
        directions, kernel = self.directions(inputs), self.score_kernel()
        bn = self.batch_normalization
        if training and bn.trainable:
            mean, variance, values = score_moments(
                directions, kernel, block_size, self.compute_dtype, bn.synchronized
            )
            bn.update_statistics(mean, variance, values)
        else:
            mean, variance = (
                ops.convert_to_tensor(x) for x in (bn.moving_mean, bn.moving_variance)
            )
        slope = bn.gamma * ops.rsqrt(variance + bn.epsilon)
        shared = [kernel, mean, slope, bn.beta]
        if not pool_output:
            shared.append(self._value_kernel())

        def values_of(directions, kernel, mean, slope, beta, value_kernel=None):
            scores = at_least_float32(pointwise_conv(directions, kernel, self.compute_dtype))
            responses = ops.relu((scores - mean) * slope + beta)
            responses = ops.cast(responses, self.compute_dtype)
            inverse = inverse_norm(responses, -1)
            if pool_output:
                return self._mean_direction(responses, inverse)
            value = pointwise_conv(responses, value_kernel, self.compute_dtype)
            return at_least_float32(value) * inverse

        value = map_images(values_of, [directions], shared, block_size)
        if pool_output:
            return features + self._value(value)
        value = from_channels_last(value, self.data_format)
        return features + ops.cast(value, self.compute_dtype)

    def directions(self, inputs):
        """The l2-normalized features in at least float32, [B, H, W, C] in any data format."""
        return l2_normalize(to_channels_last(inputs, self.data_format), -1)

    def score_kernel(self):
        """The first kernel as applied: s1 * W1, normalized over the channels."""
        return self.template_kernel * inverse_norm(self.template_kernel, 0) * self.template_scale

    def scores(self, inputs):
        """Scaled cosine similarity of each location with each template.

        Returns:
            [B, H, W, K], or [B, K, H, W] with channels first.
        """
        directions = l2_normalize(inputs, self.channel_axis)
        return self._convolve(directions, self.score_kernel())

    def _value_kernel(self):
        """The second kernel as applied: alpha * s2 * W2, normalized over the templates."""
        scale = self.alpha * self.value_scale
        return self.value_kernel * inverse_norm(self.value_kernel, 0) * scale

    def _mean_direction(self, responses, inverse):
        """Average of the normalized responses over the locations, [B, K]."""
        _, height, width, _ = ops.shape(responses)
        locations = height * width
        responses = ops.reshape(responses, (-1, locations, self.templates))
        weights = ops.reshape(inverse / ops.cast(locations, inverse.dtype), (-1, 1, locations))
        # The weighted sum is one matrix product and needs no second tensor of B x H x W x K.
        mean = ops.matmul(ops.cast(weights, responses.dtype), responses)
        return ops.squeeze(mean, axis=1)

    def _value(self, directions):
        kernel = ops.cast(self._value_kernel(), self.compute_dtype)
        return ops.matmul(ops.cast(directions, self.compute_dtype), kernel)

    def _convolve(self, inputs, kernel):
        if self.data_format == "channels_last":
            return pointwise_conv(inputs, kernel, self.compute_dtype)
        # On CPU, TensorFlow has no channels-first convolution.
        inputs, kernel = (ops.cast(x, self.compute_dtype) for x in (inputs, kernel))
        return ops.einsum("bchw,ck->bkhw", inputs, kernel)

    def _scores_shape(self, input_shape):
        shape = list(input_shape)
        shape[self.channel_axis] = self.templates
        return tuple(shape)

    def compute_output_shape(self, input_shape, return_scores=False, pool_output=False):
        outputs = tuple(input_shape)
        if pool_output:
            outputs = (input_shape[0], input_shape[self.channel_axis])
        return (outputs, self._scores_shape(input_shape)) if return_scores else outputs

    def compute_output_spec(self, inputs, training=None, return_scores=False, pool_output=False):
        shapes = self.compute_output_shape(inputs.shape, return_scores, pool_output)
        if not return_scores:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        return tuple(keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes)

    def get_config(self):
        return {
            **super().get_config(),
            "templates": self.templates,
            "alpha": self.alpha,
            "initial_template_scale": self.initial_template_scale,
            "initial_value_scale": self.initial_value_scale,
            # `limit_normalization_momentum` reduces that of the batch normalization.
            "momentum": getattr(self.batch_normalization, "momentum", self.momentum),
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "data_format": self.data_format,
            "synchronized": self.synchronized,
        }
