"""Layers of this package as tf_keras layers, channels last; see `bridge`."""

import tensorflow as tf
import tf_keras


class InverseRMS(tf_keras.layers.Layer):
    """Counterpart of `letkd_keras.export.InverseRMS`."""

    def __init__(self, axis=-1, floor=1e-12, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.floor = floor

    def call(self, inputs):
        mean_square = tf.reduce_mean(inputs * inputs, axis=self.axis, keepdims=True)
        return tf.math.rsqrt(tf.maximum(mean_square, self.floor))

    def get_config(self):
        return {**super().get_config(), "axis": self.axis, "floor": self.floor}


class HardSigmoid(tf_keras.layers.Layer):
    """Activation `hard_sigmoid` of Keras. That of tf_keras is another function."""

    def call(self, inputs):
        return tf.nn.relu6(inputs + 3) / 6


class HardSilu(tf_keras.layers.Layer):
    """Activation `hard_silu` of Keras, in one layer so that TFLite has one operation for it."""

    def call(self, inputs):
        return inputs * tf.nn.relu6(inputs + 3) / 6


class ChannelShuffle(tf_keras.layers.Layer):
    """Counterpart of `letkd_keras.layers.channel_shuffle.ChannelShuffle`."""

    def __init__(self, groups, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups

    def call(self, inputs):
        _, height, width, channels = inputs.shape
        table = (-1, height, width, self.groups, channels // self.groups)
        outputs = tf.transpose(tf.reshape(inputs, table), (0, 1, 2, 4, 3))
        return tf.reshape(outputs, (-1, height, width, channels))

    def get_config(self):
        return {**super().get_config(), "groups": self.groups}


class ChannelSplit(tf_keras.layers.Layer):
    """Counterpart of `letkd_keras.layers.channel_shuffle.ChannelSplit`."""

    def call(self, inputs):
        return tuple(tf.split(inputs, 2, axis=-1))


CUSTOM = {
    layer.__name__: layer
    for layer in (InverseRMS, HardSigmoid, HardSilu, ChannelShuffle, ChannelSplit)
}
