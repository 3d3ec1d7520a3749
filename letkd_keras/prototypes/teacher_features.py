import keras
import numpy as np

from letkd_keras.functional.classifier import check_classifier
from letkd_keras.functional.layer_position import layer_position
from letkd_keras.functional.token_grid import feature_maps
from letkd_keras.ranges import positive_integer


class TeacherFeatures:
    """Feature vectors of a frozen teacher at some of its layers.

    One functional model runs from the teacher's input to these layers, pools their outputs where
    the student's grid is smaller (method, "heterogeneous pairs") and is called in inference mode,
    on all replicas of a `tf.distribute` strategy that is running. The tokens of a transformer
    become a feature map (`letkd_keras.functional.feature_maps`).

    Args:
        teacher: A functional `keras.Model` from images to logits [B, classes].
        layers: Dictionary of layer names by level.
        pool_size: Window and stride of the average pooling, one integer or a dictionary by level; 1
            leaves the grid as it is, 2 halves it. Where it does not divide the grid, the windows at
            the edges are smaller: 2 makes 4x4 of 7x7.
        image_shape: Shape of an image, for a teacher that takes images of any size; `None` means
            the shape that the teacher takes.

    Attributes:
        num_classes: Number of classes, from the teacher's output.
        pool_sizes: Pooling window by level.
        grids: `(height, width)` after pooling by level.
        channels: Number of channels by level.

    Raises:
        ValueError: If the teacher is no functional model with one output [B, classes], has no such
            layer, or a layer's output is no feature map of known size.
    """

    def __init__(self, teacher, layers, pool_size=1, image_shape=None):
        check_classifier(teacher, "teacher")
        self.teacher = teacher
        self.image_shape = image_shape
        self.layers = dict(layers)
        self.pool_sizes = _pool_sizes(pool_size, self.layers)
        self.num_classes = int(teacher.outputs[0].shape[-1])
        flat, maps = feature_maps(
            at_size(teacher, image_shape),
            list(self.layers.values()),
            [f"{level}_layer" for level in self.layers],
        )
        outputs = {
            level: _pooled(output, level, name, self.pool_sizes[level])
            for (level, name), output in zip(self.layers.items(), maps, strict=True)
        }
        self.grids = {level: tuple(output.shape[1:3]) for level, output in outputs.items()}
        self.channels = {level: int(output.shape[-1]) for level, output in outputs.items()}
        self.model = keras.Model(flat.inputs, list(outputs.values()))
        self._on_replicas = {}

    def only(self, level):
        """One level by itself, as `TeacherFeatures` that run the teacher no further."""
        return TeacherFeatures(
            self.teacher, {level: self.layers[level]}, self.pool_sizes[level], self.image_shape
        )

    def position(self, level):
        """Where a level's layer is in the teacher, whatever it is called (`layer_position`)."""
        return layer_position(at_size(self.teacher, self.image_shape), self.layers[level])

    def check_shape(self, shape):
        """Refuse images of another shape than the teacher takes.

        Args:
            shape: Shape of one image.

        Raises:
            ValueError: If it is another one.
        """
        expected = tuple(self.model.input_shape[1:])
        if tuple(shape) != expected:
            raise ValueError(
                f"`data` must have images of shape {expected}, as the teacher takes them. "
                f"Received: images of shape {tuple(shape)}"
            )

    def locations(self, level):
        """Number of locations of an image at a level."""
        height, width = self.grids[level]
        return height * width

    def __call__(self, images):
        """Feature vectors of a batch.

        Args:
            images: Batch of images, as the teacher takes them.

        Returns:
            Dictionary by level of float32 [B * height * width, C], image by image.

        Raises:
            ValueError: If the images have not the shape that the teacher takes.
        """
        self.check_shape(images.shape[1:])
        return {
            level: np.asarray(output, dtype="float32").reshape(-1, self.channels[level])
            for level, output in zip(self.layers, self._infer(images), strict=True)
        }

    def _infer(self, images):
        """The model's outputs for a batch, NumPy arrays [B, ...], on every replica there is.

        Under a `tf.distribute` strategy of several replicas the batch is dealt to them in equal
        parts and their outputs are put together in the order of the images. (`predict_on_batch`
        would have every replica compute the whole batch.) The strategy that counts is the one under
        which the teacher or the model was built or, if they were built under none, the one running
        at the call.
        """
        if keras.backend.backend() == "tensorflow":
            strategies = self.model.distribute_strategy, self.teacher.distribute_strategy
            strategy = max(strategies, key=lambda strategy: strategy.num_replicas_in_sync)
            if strategy.num_replicas_in_sync > 1:
                if strategy not in self._on_replicas:
                    self._on_replicas[strategy] = _on_replicas(self.model, strategy)
                return self._on_replicas[strategy](images)
        outputs = self.model.predict_on_batch(images)
        return outputs if isinstance(outputs, list) else [outputs]


def at_size(teacher, image_shape):
    """The same teacher for images of one shape, where it takes images of any size.

    Args:
        teacher: A functional `keras.Model`.
        image_shape: Shape of an image; `None` means any.

    Returns:
        A functional model that shares all layers, or the teacher itself where its shape is fixed.
    """
    if image_shape is None or None not in teacher.input_shape[1:]:
        return teacher
    inputs = keras.Input(tuple(image_shape), dtype=teacher.inputs[0].dtype)
    return keras.Model(inputs, teacher(inputs), name=teacher.name)


def _pool_sizes(pool_size, levels):
    sizes = pool_size if isinstance(pool_size, dict) else dict.fromkeys(levels, pool_size)
    try:
        return {level: positive_integer.check(sizes[level], "pool_size") for level in levels}
    except (KeyError, ValueError):
        raise ValueError(
            "`pool_size` must be an integer of at least 1, or a dictionary with one for each of "
            f"the levels {', '.join(levels)}. Received: pool_size={pool_size}"
        ) from None


def _pooled(output, level, name, window):
    if keras.config.image_data_format() == "channels_first" and len(output.shape) == 4:
        output = keras.layers.Permute((2, 3, 1))(output)
    shape = output.shape
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            f"`{level}_layer` must give a feature map [B, height, width, channels] of known size, "
            f"or tokens. Received: {level}_layer={name!r} of shape {tuple(shape)}"
        )
    if window == 1:
        return output
    pooling = keras.layers.AveragePooling2D(window, padding="same", data_format="channels_last")
    return pooling(output)


def _on_replicas(model, strategy):
    import tensorflow as tf

    # Those of this process: each worker of several goes through the data that it is given.
    replicas = len(strategy.extended.worker_devices)

    @tf.function(reduce_retracing=True)
    def run(images):
        return strategy.run(
            lambda part: keras.tree.flatten(model(part, training=False)), args=(images,)
        )

    def gather(output, size):
        parts = strategy.experimental_local_results(output)
        return np.concatenate([part.numpy() for part in parts])[:size]

    def on_replicas(images):
        images = keras.ops.convert_to_numpy(images)
        parts = _equal_parts(images, replicas)
        distributed = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group % replicas])
        )
        return [gather(output, len(images)) for output in run(distributed)]

    return on_replicas


def _equal_parts(images, number):
    """Images in parts of one size, none of them empty: the last image is repeated as needed."""
    padding = np.repeat(images[-1:], -len(images) % number, axis=0)
    return np.split(np.concatenate([images, padding]), number)
