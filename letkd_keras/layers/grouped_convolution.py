import functools

import keras
from keras import ops

from letkd_keras.data_format import from_channels_last, to_channels_last


@keras.saving.register_keras_serializable("letkd_keras")
class GroupedConv2D(keras.layers.Conv2D):
    """2-D convolution in groups of channels by one native TensorFlow operation.

    On TensorFlow, Keras compiles every grouped convolution separately with XLA. A ShuffleNet then
    trains several times slower and its ONNX file is invalid. This layer calls `tf.nn.conv2d`
    instead. On a CPU the gradient of that operation needs oneDNN. Without oneDNN the groups are
    convolved one after another. Other backends run Keras' own convolution.

    The arguments are those of `keras.layers.Conv2D`. The kernel is [kh, kw, C / groups, filters].
    """

    def convolution_op(self, inputs, kernel):
        if keras.backend.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        convolve = self._convolve if _gradient_exists() else self._convolve_one_by_one
        outputs = convolve(to_channels_last(inputs, self.data_format), kernel)
        return from_channels_last(outputs, self.data_format)

    def _convolve(self, inputs, kernel):
        import tensorflow as tf

        return tf.nn.conv2d(
            inputs, kernel, self.strides, self.padding.upper(), dilations=self.dilation_rate
        )

    def _convolve_one_by_one(self, inputs, kernel):
        groups = zip(
            ops.split(inputs, self.groups, axis=-1),
            ops.split(kernel, self.groups, axis=-1),
            strict=True,
        )
        return ops.concatenate([self._convolve(*group) for group in groups], axis=-1)


@functools.cache
def _gradient_exists():
    """Whether TensorFlow has a gradient of a grouped `tf.nn.conv2d` here. Only trying it shows."""
    import tensorflow as tf

    with tf.init_scope():
        maps, kernel = tf.ones((1, 1, 1, 2)), tf.ones((1, 1, 1, 2))
        # No tape, which records nothing inside of this scope.
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=maps.shape,
                filter=kernel,
                out_backprop=maps,
                strides=[1, 1, 1, 1],
                padding="VALID",
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True
