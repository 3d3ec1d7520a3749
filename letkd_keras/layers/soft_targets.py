import math

import keras
from keras import ops
from scipy.special import xlogy

from letkd_keras.data_format import data_format_or_default, to_channels_last
from letkd_keras.losses.teacher_logits import class_indices
from letkd_keras.losses.template_kl import inner_product, log_normalizer
from letkd_keras.ranges import positive_integer, positive_number


class _SoftTargets(keras.layers.Layer):
    """Base of both kinds of targets: float32 weights never trained, pooling of the features."""

    def __init__(self, pool_size=1, data_format=None, dtype=None, **kwargs):
        # Half precision is too coarse for distances, so the global dtype policy is not followed.
        dtype = dtype or keras.backend.result_type(keras.config.floatx(), "float32")
        super().__init__(**{"trainable": False, **kwargs}, dtype=dtype)
        self.pool_size = positive_integer.check(pool_size, "pool_size")
        self.data_format = data_format_or_default(data_format)
        self.channel_axis = -1 if self.data_format == "channels_last" else 1
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        channels = input_shape[self.channel_axis]
        if channels is None:
            raise ValueError(
                f"{type(self).__name__} needs a known number of channels. "
                f"Received: input_shape={input_shape}, data_format={self.data_format!r}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={self.channel_axis: channels})
        self._add_weights(channels)
        self.built = True

    def _build_for(self, channels):
        """Build the layer for features of any grid. Keras notes the shape for copies."""
        shape = [None] * 4
        shape[self.channel_axis] = channels
        self.build(tuple(shape))

    def _add_state(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)

    def _locations(self, features):
        """Teacher's features as [B, H, W, C], after pooling."""
        features = to_channels_last(features, self.data_format)
        if self.pool_size > 1:
            features = ops.average_pool(
                features,
                self.pool_size,
                strides=self.pool_size,
                padding="same",
                data_format="channels_last",
            )
        return features

    def compute_output_shape(self, features_shape, labels_shape=None, return_negentropy=False):
        batch, *grid = features_shape
        grid = grid[:2] if self.data_format == "channels_last" else grid[1:]
        # The windows at the edges may be smaller.
        grid = [size and math.ceil(size / self.pool_size) for size in grid]
        targets = (batch, *grid, self.templates)
        return (targets, targets[:-1]) if return_negentropy else targets

    def compute_output_spec(self, features, labels=None, return_negentropy=False):
        shapes = self.compute_output_shape(features.shape, None, return_negentropy)
        if not return_negentropy:
            return keras.KerasTensor(shapes, dtype=self.compute_dtype)
        return tuple(keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes)

    def get_config(self):
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "data_format": self.data_format,
        }


@keras.saving.register_keras_serializable("letkd_keras")
class PenultimateTargets(_SoftTargets):
    """Soft assignment of the teacher's penultimate features to k-means centers (QuEST).

        p_k = softmax_k(-temperature * ||f - center_k||^2)      at each location

    The squared norm of `f` is the same for all k and cancels in the softmax. What remains is one
    matrix product and a bias per center.

    GPUs may round the factors of a matrix product to the 10-bit mantissa of TF32. Keras has no
    option to prevent that, so the computation tolerates it: the mean of the centers is subtracted
    from features and centers, which changes no distance and makes the factors small, and the
    squared norms of the centers are added after the product, in full precision.

    Args:
        templates: Number of centers K, at least 1.
        temperature: Factor of the squared distances, more than 0. The paper uses 1. The
            supplement's pseudo-code omits the minus sign; the authors' program has it.
        pool_size: Window and stride of the average pooling of the teacher's features; 1 means none.
            Where it does not divide the grid, the windows at the edges are smaller.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        **kwargs: Keras' layer arguments.

    Call arguments:
        features: Teacher's features [B, H, W, C] (or [B, C, H, W]).
        return_negentropy: Whether to return `(targets, sum_k p log p)`, the second [B, H, W].

    Returns:
        Targets [B, H / pool_size, W / pool_size, K], rounded up, that sum to 1 at each location.

    Raises:
        ValueError: If an argument is out of its range, or the features do not have four dimensions
            or a known number of channels.
    """

    def __init__(self, templates, temperature=1.0, pool_size=1, data_format=None, **kwargs):
        super().__init__(pool_size=pool_size, data_format=data_format, **kwargs)
        self.templates = positive_integer.check(templates, "templates")
        self.temperature = positive_number.check(temperature, "temperature")

    @classmethod
    def from_prototypes(cls, prototypes, **kwargs):
        """Create the layer from a `PenultimatePrototypes`."""
        templates, channels = prototypes.centers.shape
        layer = cls(templates=templates, pool_size=prototypes.pool_size, **kwargs)
        layer._build_for(channels)
        layer.centers.assign(prototypes.centers)
        return layer

    def _add_weights(self, channels):
        self.centers = self._add_state("centers", (self.templates, channels))

    def call(self, features, return_negentropy=False):
        mean = ops.mean(self.centers, axis=0)
        centers = self.centers - mean
        kernel = ops.transpose(2.0 * self.temperature * centers)[None, None]
        bias = -self.temperature * ops.sum(ops.square(centers), axis=1)
        locations = self._locations(features) - mean
        logits = ops.conv(locations, kernel, data_format="channels_last") + bias
        targets = ops.softmax(logits)
        if not return_negentropy:
            return targets
        # sum p log p without the logarithms of thousands of numbers that underflow.
        return targets, inner_product(targets, logits) - log_normalizer(logits, targets)

    def get_config(self):
        return {
            **super().get_config(),
            "templates": self.templates,
            "temperature": self.temperature,
        }


@keras.saving.register_keras_serializable("letkd_keras")
class IntermediateTargets(_SoftTargets):
    """What the teacher confuses the sub-class of a location with: a row of `subclass_scores`.

    A fixed 1x1 convolution projects the teacher's features with its LDA. The sub-class of a
    location is the one with the nearest center, of those of the image's true class. Its row is the
    target.

    The mean is subtracted before the projection and the distances to the centers are computed
    without a matrix product, since GPUs may round the factors of products to the 10-bit mantissa of
    TF32.

    Args:
        num_classes: Number of classes, at least 1.
        subclasses: Sub-classes of each class, at least 1. There are K = num_classes * subclasses
            templates, ordered class by class.
        components: Number of LDA components d, at least 1.
        pool_size: Window and stride of the average pooling of the teacher's features; 1 means none.
            Where it does not divide the grid, the windows at the edges are smaller.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        **kwargs: Keras' layer arguments.

    Call arguments:
        features: Teacher's features [B, H, W, C] (or [B, C, H, W]).
        labels: Integer classes [B] or [B, 1], or probabilities [B, num_classes] (one-hot, or mixed
            by CutMix and the like), of which the largest counts.
        return_negentropy: Whether to return `(targets, sum_k p log p)`, the second [B, H, W].

    Returns:
        Targets [B, H / pool_size, W / pool_size, K], rounded up, that sum to 1 at each location.

    Raises:
        ValueError: If an argument is out of its range, the features do not have four dimensions or
            a known number of channels, or labels have another shape.
    """

    def __init__(
        self, num_classes, subclasses, components, pool_size=1, data_format=None, **kwargs
    ):
        super().__init__(pool_size=pool_size, data_format=data_format, **kwargs)
        self.num_classes = positive_integer.check(num_classes, "num_classes")
        self.subclasses = positive_integer.check(subclasses, "subclasses")
        self.components = positive_integer.check(components, "components")

    @classmethod
    def from_prototypes(cls, prototypes, **kwargs):
        """Create the layer from an `IntermediatePrototypes`."""
        channels, components = prototypes.lda_scalings.shape
        layer = cls(
            num_classes=prototypes.num_classes,
            subclasses=prototypes.subclasses,
            components=components,
            pool_size=prototypes.pool_size,
            **kwargs,
        )
        layer._build_for(channels)
        layer.lda_mean.assign(prototypes.lda_mean)
        layer.lda_kernel.assign(prototypes.lda_scalings)
        layer.centers.assign(prototypes.centers)
        scores = prototypes.subclass_scores
        layer.subclass_scores.assign(scores)
        layer.negentropies.assign(xlogy(scores, scores).sum(axis=1))
        return layer

    @property
    def templates(self):
        """Number of templates K."""
        return self.num_classes * self.subclasses

    def _add_weights(self, channels):
        self.lda_mean = self._add_state("lda_mean", (channels,))
        self.lda_kernel = self._add_state("lda_kernel", (channels, self.components))
        self.centers = self._add_state("centers", (self.templates, self.components))
        self.subclass_scores = self._add_state("subclass_scores", (self.templates, self.templates))
        self.negentropies = self._add_state("negentropies", (self.templates,))

    def project(self, features):
        """LDA components z of the teacher's features, [B, H / pool_size, W / pool_size, d]."""
        locations = self._locations(features) - self.lda_mean
        kernel = ops.convert_to_tensor(self.lda_kernel)[None, None]
        return ops.conv(locations, kernel, data_format="channels_last")

    def call(self, features, labels, return_negentropy=False):
        z = self.project(features)
        labels = class_indices(labels, self.num_classes)
        _, height, width, _ = ops.shape(z)
        z = ops.reshape(z, (-1, height * width, 1, self.components))
        by_class = ops.reshape(
            self.centers, (self.num_classes, 1, self.subclasses, self.components)
        )
        own = ops.take(by_class, labels, axis=0)
        distances = ops.sum(ops.square(z - own), axis=-1)
        first = (labels * self.subclasses)[:, None]
        nearest = ops.reshape(ops.argmin(distances, axis=-1) + first, (-1, height, width))
        targets = ops.take(self.subclass_scores, nearest, axis=0)
        if not return_negentropy:
            return targets
        return targets, ops.take(self.negentropies, nearest, axis=0)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "subclasses": self.subclasses,
            "components": self.components,
        }
