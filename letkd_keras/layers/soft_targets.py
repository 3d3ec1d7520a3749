import keras
from keras import ops

from letkd_keras.losses import inner_product, logsumexp


class _SoftTargets(keras.layers.Layer):
    """What both kinds of targets share: frozen float32 state, pooling of the teacher's grid."""

    def __init__(self, pool_size=1, data_format=None, dtype=None, **kwargs):
        # Of its own dtype, not the global policy's: distances do not bear half precision.
        dtype = dtype or keras.backend.result_type(keras.config.floatx(), "float32")
        super().__init__(trainable=False, dtype=dtype, **kwargs)
        if not isinstance(pool_size, int) or pool_size < 1:
            raise ValueError(
                f"`pool_size` must be an integer of at least 1. Received: pool_size={pool_size}"
            )
        self.pool_size = pool_size
        self.data_format = data_format or keras.config.image_data_format()

    def _add_state(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)

    def _locations(self, features):
        """Teacher features as [B, H, W, C] after pooling."""
        if self.data_format == "channels_first":
            features = ops.transpose(features, (0, 2, 3, 1))
        if self.pool_size > 1:
            features = ops.average_pool(
                features, self.pool_size, strides=self.pool_size, data_format="channels_last"
            )
        return features

    def get_config(self):
        config = super().get_config()
        del config["trainable"]
        return {**config, "pool_size": self.pool_size, "data_format": self.data_format}


@keras.saving.register_keras_serializable("letkd_keras")
class PenultimateTargets(_SoftTargets):
    """Soft assignment of the teacher's penultimate features to k-means centres (QuEST).

        p_k = softmax_k(-temperature * ||f - centre_k||^2)      at each location

    The squared norm of `f` is the same for all k and drops out of the softmax: one matrix product
    with a bias is all there is.

    Args:
        templates: Number of centres K.
        temperature: Sharpness, more than 0; the paper's T = 1. The supplement's pseudo-code omits
            the minus sign; the authors' program has it.
        pool_size: Window and stride of the average pooling of the teacher's features, 1 for none.
        data_format: Keras' data format of the features.
        **kwargs: Keras' layer arguments.

    Call arguments:
        features: Teacher's features [B, H, W, C].
        return_negentropy: Whether to return `(targets, sum_k p log p)`, the second [B, H, W].

    Returns:
        Targets [B, H / pool_size, W / pool_size, K], each location summing to 1.
    """

    def __init__(self, templates, temperature=1.0, pool_size=1, data_format=None, **kwargs):
        super().__init__(pool_size=pool_size, data_format=data_format, **kwargs)
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be more than 0. Received: temperature={temperature}"
            )
        self.templates = templates
        self.temperature = float(temperature)

    @classmethod
    def from_prototypes(cls, prototypes, **kwargs):
        """Targets from a `PenultimatePrototypes`."""
        layer = cls(templates=len(prototypes.centers), pool_size=prototypes.pool_size, **kwargs)
        layer.build((None, None, None, prototypes.centers.shape[1]), channel_axis=-1)
        layer.centers.assign(prototypes.centers)
        return layer

    def build(self, input_shape, channel_axis=None):
        if channel_axis is None:
            channel_axis = -1 if self.data_format == "channels_last" else 1
        self.centers = self._add_state("centers", (self.templates, input_shape[channel_axis]))
        self.built = True

    def call(self, features, return_negentropy=False):
        centers = ops.convert_to_tensor(self.centers)
        biases = -ops.sum(ops.square(centers), axis=1, keepdims=True)
        kernel = self.temperature * ops.concatenate([2.0 * centers, biases], axis=1)
        # The bias as a kernel of a constant channel: added apart it would cost another pass over
        # a tensor of B x H x W x K.
        locations = self._locations(features)
        locations = ops.concatenate([locations, ops.ones_like(locations[..., :1])], axis=-1)
        logits = ops.conv(locations, ops.transpose(kernel)[None, None], data_format="channels_last")
        targets = ops.softmax(logits)
        if not return_negentropy:
            return targets
        # sum p log p without a logarithm of 4096 numbers that underflow.
        return targets, inner_product(targets, logits) - logsumexp(logits, targets)

    def get_config(self):
        return {
            **super().get_config(),
            "templates": self.templates,
            "temperature": self.temperature,
        }


@keras.saving.register_keras_serializable("letkd_keras")
class IntermediateTargets(_SoftTargets):
    """What the teacher confuses a location with: rows of `subclass_scores`.

    The teacher's features are projected by its LDA (a fixed 1x1 convolution); the nearest centre
    among the sub-classes of the image's true class picks the row that is the target.

    Args:
        num_classes: Number of classes.
        subclasses: Sub-classes per class; K = num_classes * subclasses templates, class by class.
        components: LDA components d.
        pool_size: Window and stride of the average pooling of the teacher's features, 1 for none.
        data_format: Keras' data format of the features.
        **kwargs: Keras' layer arguments.

    Call arguments:
        features: Teacher's features [B, H, W, C].
        labels: Classes [B] or [B, 1] of integers, or [B, num_classes] of probabilities (one-hot or
            mixed by CutMix and the like), of which the largest decides.
        return_negentropy: Whether to return `(targets, sum_k p log p)`, the second [B, H, W].

    Returns:
        Targets [B, H / pool_size, W / pool_size, K], each location summing to 1.
    """

    def __init__(
        self, num_classes, subclasses, components, pool_size=1, data_format=None, **kwargs
    ):
        super().__init__(pool_size=pool_size, data_format=data_format, **kwargs)
        self.num_classes = num_classes
        self.subclasses = subclasses
        self.components = components

    @classmethod
    def from_prototypes(cls, prototypes, **kwargs):
        """Targets from an `IntermediatePrototypes`."""
        channels, components = prototypes.lda_scalings.shape
        layer = cls(
            num_classes=prototypes.num_classes,
            subclasses=prototypes.subclasses,
            components=components,
            pool_size=prototypes.pool_size,
            **kwargs,
        )
        layer.build((None, None, None, channels), channel_axis=-1)
        layer._assign(
            prototypes.lda_mean,
            prototypes.lda_scalings,
            prototypes.centers,
            prototypes.subclass_scores,
        )
        return layer

    @property
    def templates(self):
        """Number of templates K."""
        return self.num_classes * self.subclasses

    def build(self, input_shape, channel_axis=None):
        if channel_axis is None:
            channel_axis = -1 if self.data_format == "channels_last" else 1
        channels = input_shape[channel_axis]
        self.lda_kernel = self._add_state("lda_kernel", (channels, self.components))
        self.lda_bias = self._add_state("lda_bias", (self.components,))
        self.centers = self._add_state("centers", (self.templates, self.components))
        self.subclass_scores = self._add_state("subclass_scores", (self.templates, self.templates))
        self.negentropies = self._add_state("negentropies", (self.templates,))
        self.built = True

    def _assign(self, mean, scalings, centers, subclass_scores):
        # In float64, since the bias can be a difference of large numbers.
        self.lda_kernel.assign(scalings)
        self.lda_bias.assign(-(mean.astype("float64") @ scalings.astype("float64")))
        self.centers.assign(centers)
        self.subclass_scores.assign(subclass_scores)
        from scipy.special import xlogy

        self.negentropies.assign(xlogy(subclass_scores, subclass_scores).sum(axis=1))

    def project(self, features):
        """LDA components z of the teacher's features, [B, H / pool_size, W / pool_size, d]."""
        kernel = ops.convert_to_tensor(self.lda_kernel)[None, None]
        z = ops.conv(self._locations(features), kernel, data_format="channels_last")
        return z + self.lda_bias

    def call(self, features, labels, return_negentropy=False):
        z = self.project(features)
        labels = self._classes(labels)
        _, height, width, _ = ops.shape(z)
        z = ops.reshape(z, (-1, height * width, self.components))
        by_class = ops.reshape(self.centers, (self.num_classes, self.subclasses, self.components))
        own = ops.take(by_class, labels, axis=0)
        # ||z||^2 is the same for all centres of a location.
        distances = ops.sum(ops.square(own), axis=-1)[:, None] - 2.0 * ops.matmul(
            z, ops.transpose(own, (0, 2, 1))
        )
        nearest = (
            ops.argmin(distances, axis=-1) + ops.cast(labels * self.subclasses, "int32")[:, None]
        )
        nearest = ops.reshape(nearest, (-1, height, width))
        targets = ops.take(self.subclass_scores, nearest, axis=0)
        if not return_negentropy:
            return targets
        return targets, ops.take(self.negentropies, nearest, axis=0)

    def _classes(self, labels):
        shape = ops.shape(labels)
        if len(shape) == 2 and shape[1] == self.num_classes and self.num_classes > 1:
            labels = ops.argmax(labels, axis=-1)
        return ops.cast(ops.reshape(labels, (-1,)), "int32")

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "subclasses": self.subclasses,
            "components": self.components,
        }
