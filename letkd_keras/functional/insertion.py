"""KD layers into a functional student, and the student's graph as distillation runs it."""

import keras

from letkd_keras.functional.graph import (
    check_functional,
    copy_with,
    find_layer,
    flatten,
    readers,
    retrace,
)
from letkd_keras.layers import KDLayer


def insert_after(model, insertions):
    """Copy a functional model with further layers after named ones.

    Everything that read a named layer's output reads the inserted layer's instead. Functional
    models inside the model (a backbone) are flattened, so that their layers can be named.

    Args:
        model: Functional `keras.Model`. It is left as it was.
        insertions: Mapping of layer names to lists of new layers, in order, each of one input and
            one output of like shape.

    Returns:
        A functional model with the same layers, names and weights, plus the insertions.

    Raises:
        ValueError: If the model is not functional, a name is not one of its layers or the layer is
            used more than once.
    """
    check_functional(model, "model")
    flat = flatten(model)
    for tap in insertions:
        find_layer(flat, tap)

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        for inserted in insertions.get(layer.name, ()):
            outputs = inserted(outputs)
        return outputs

    return copy_with(flat, call)


def insert_kd_layers(
    student,
    penultimate=None,
    intermediate=None,
    *,
    penultimate_layer="penultimate",
    intermediate_layer="intermediate",
):
    """Copy a student with KD layers in it.

    Args:
        student: Functional `keras.Model`; it is left as it was.
        penultimate: The `KDLayer` after the last feature map, or `None`.
        intermediate: The `KDLayer` after the first block of the last stage, or `None`.
        penultimate_layer: Name of the student's layer that the former follows.
        intermediate_layer: Name of the student's layer that the latter follows.

    Returns:
        A functional model with the KD layers inside, still from images to logits.

    Raises:
        ValueError: If a tap is not in the student.
    """
    insertions = {}
    for tap, layer in ((intermediate_layer, intermediate), (penultimate_layer, penultimate)):
        if layer is not None:
            insertions.setdefault(tap, []).append(layer)
    return insert_after(student, insertions)


class TrainingGraph:
    """The student's graph as a distillation step runs it: once, for logits and scores.

    It shares the student's layers and computes the same logits. KD layers also hand out their
    scores, and one that only a global average pooling reads pools first (`KDLayer.call`), so that
    its value convolution runs once per image.

    Not a Keras object on purpose: the weights are the student's, and are saved once.

    Args:
        student: Functional `keras.Model`.
        kd_layers: Mapping of a level's name to the `KDLayer` of the student that serves it.
        pool_sizes: Mapping of a level's name to the window of the average pooling of its scores,
            for a student whose grid is finer than that of the targets. A missing level means 1.
        features: Levels whose KD layer's output x_hat is wanted as well.

    Call arguments:
        inputs: Images.
        training: Whether the student runs in training mode.

    Returns:
        Dictionary of `"logits"` and, under its level's name, the scores [B, H, W, K] of each KD
        layer; of those in `features` also x_hat [B, H, W, C], as `LEVEL_features`.
    """

    def __init__(self, student, kd_layers, pool_sizes=(), features=()):
        scores = {}
        pool_sizes = dict(pool_sizes)
        pooled = {
            layer.name
            for level, layer in kd_layers.items()
            if level not in features and is_only_pooled(student, layer)
        }
        skipped = set()
        levels = {layer.name: level for level, layer in kd_layers.items()}

        def call(layer, *args, **kwargs):
            if layer.name in skipped:
                return args[0]
            if layer.name not in levels:
                return layer(*args, **kwargs)
            pool_output = layer.name in pooled
            if pool_output:
                skipped.add(readers(student, layer)[0].name)
            outputs, layer_scores = _WithScores(layer, pool_output)(*args)
            level = levels[layer.name]
            channels_first = layer.data_format == "channels_first"
            if channels_first:
                layer_scores = keras.ops.transpose(layer_scores, (0, 2, 3, 1))
            if level in features:
                scores[f"{level}_features"] = (
                    keras.ops.transpose(outputs, (0, 2, 3, 1)) if channels_first else outputs
                )
            scores[level] = _average(layer_scores, pool_sizes.get(level, 1))
            return (outputs, layer_scores) if kwargs.get("return_scores") else outputs

        inputs, logits = retrace(student, call_fn=call)
        self._function = keras.Model(inputs, {"logits": logits, **scores}, name="training_graph")

    def __call__(self, inputs, training):
        return self._function(inputs, training=training)


def _average(scores, pool):
    if pool == 1:
        return scores
    return keras.ops.average_pool(scores, pool, strides=pool, data_format="channels_last")


class _WithScores(keras.layers.Layer):
    """A KD layer as the training graph calls it.

    A layer of its own since Keras wants the same number of outputs from all calls of a layer in
    functional models, and the student calls the KD layer for its features alone.
    """

    def __init__(self, kd_layer, pool_output):
        super().__init__(name=f"{kd_layer.name}_with_scores", dtype=kd_layer.dtype_policy)
        self.kd_layer = kd_layer
        self.pool_output = pool_output
        self.built = True

    def call(self, inputs, training=None):
        return self.kd_layer(
            inputs, training=training, return_scores=True, pool_output=self.pool_output
        )

    def compute_output_spec(self, inputs, training=None):
        return self.kd_layer.compute_output_spec(
            inputs, return_scores=True, pool_output=self.pool_output
        )


def is_only_pooled(student, layer):
    """Whether a KD layer's output goes to a global average pooling and nowhere else."""
    reading = readers(student, layer)
    return (
        len(reading) == 1
        and isinstance(reading[0], keras.layers.GlobalAveragePooling2D)
        and reading[0].data_format == layer.data_format
        and not reading[0].keepdims
    )


def kd_layers_of(student):
    """The KD layers of a student by name, in the order of its graph."""
    return {layer.name: layer for layer in student.layers if isinstance(layer, KDLayer)}
