"""KD layers into a functional student, and the student's graph as distillation runs it."""

import difflib

import keras

from letkd_keras.layers import KDLayer


def insert_after(model, insertions):
    """Copy a functional model with further layers after named ones.

    Everything that read a named layer's output reads the inserted layer's instead.

    Args:
        model: Functional `keras.Model`. It is left as it was.
        insertions: Mapping of layer names to new layers of one input and one output of like shape.

    Returns:
        A functional model with the same layers, names and weights, plus the insertions.

    Raises:
        ValueError: If the model is not functional, a name is not one of its layers or the layer is
            used more than once.
    """
    check_functional(model, "model")
    for tap in insertions:
        find_tap(model, tap)

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        inserted = insertions.get(layer.name)
        return inserted(outputs) if inserted is not None else outputs

    # `clone_model` copies layers and, for models inside the model, their graphs; weights are new.
    copy = keras.models.clone_model(model, call_function=call)
    for layer in model.layers:
        copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def insert_kd_layers(
    student,
    penultimate=None,
    intermediate=None,
    *,
    penultimate_tap="penultimate",
    intermediate_tap="intermediate",
):
    """Copy a student with KD layers in it.

    Args:
        student: Functional `keras.Model`; it is left as it was.
        penultimate: The `KDLayer` after the last feature map, or `None`.
        intermediate: The `KDLayer` after the first block of the last stage, or `None`.
        penultimate_tap: Name of the student's layer that the former follows.
        intermediate_tap: Name of the student's layer that the latter follows.

    Returns:
        A functional model with the KD layers inside, still from images to logits.

    Raises:
        ValueError: If a tap is not in the student.
    """
    layers = {intermediate_tap: intermediate, penultimate_tap: penultimate}
    return insert_after(student, {tap: layer for tap, layer in layers.items() if layer is not None})


class TrainingGraph:
    """The student's graph as a distillation step runs it: once, for logits and scores.

    It shares the student's layers and computes the same logits. KD layers also hand out their
    scores, and one that only a global average pooling reads pools first (`KDLayer.call`), so that
    its value convolution runs once per image.

    Not a Keras object on purpose: the weights are the student's, and are saved once.

    Args:
        student: Functional `keras.Model`.
        kd_layers: Mapping of a level's name to the `KDLayer` of the student that serves it.

    Call arguments:
        inputs: Images.
        training: Whether the student runs in training mode.

    Returns:
        Dictionary of `"logits"` and, under its level's name, the scores [B, H, W, K] of each KD
        layer.
    """

    def __init__(self, student, kd_layers):
        scores = {}
        pooled = {layer.name for layer in kd_layers.values() if _is_only_pooled(student, layer)}
        skipped = set()
        levels = {layer.name: level for level, layer in kd_layers.items()}

        def call(layer, *args, **kwargs):
            if layer.name in skipped:
                return args[0]
            if layer.name not in levels:
                return layer(*args, **kwargs)
            pool = layer.name in pooled
            if pool:
                skipped.add(_readers(student, layer)[0].name)
            outputs, layer_scores = _WithScores(layer, pool)(*args)
            if layer.data_format == "channels_first":
                layer_scores = keras.ops.transpose(layer_scores, (0, 2, 3, 1))
            scores[levels[layer.name]] = layer_scores
            return (outputs, layer_scores) if kwargs.get("return_scores") else outputs

        retraced = keras.models.clone_model(
            student, clone_function=lambda layer: layer, call_function=call
        )
        self._function = keras.Model(
            retraced.inputs, {"logits": retraced.output, **scores}, name="training_graph"
        )

    def __call__(self, inputs, training):
        return self._function(inputs, training=training)


class _WithScores(keras.layers.Layer):
    """A KD layer as the training graph calls it.

    A layer of its own since Keras wants the same number of outputs from all calls of a layer in
    functional models, and the student calls the KD layer for its features alone.
    """

    def __init__(self, kd_layer, pool):
        super().__init__(name=f"{kd_layer.name}_with_scores", dtype=kd_layer.dtype_policy)
        self.kd_layer = kd_layer
        self.pool = pool
        self.built = True

    def call(self, inputs, training=None):
        return self.kd_layer(inputs, training=training, return_scores=True, pool=self.pool)

    def compute_output_spec(self, inputs, training=None):
        return self.kd_layer.compute_output_spec(inputs, return_scores=True, pool=self.pool)


def _is_only_pooled(student, layer):
    readers = _readers(student, layer)
    return (
        len(readers) == 1
        and isinstance(readers[0], keras.layers.GlobalAveragePooling2D)
        and readers[0].data_format == layer.data_format
        and not readers[0].keepdims
    )


def _readers(student, layer):
    """The operations of the student that read the layer's output."""
    produced = {id(tensor) for tensor in keras.tree.flatten(layer.output)}
    readers = [
        node.operation
        for nodes in student._nodes_by_depth.values()
        for node in nodes
        if any(id(tensor) in produced for tensor in node.input_tensors)
    ]
    if any(id(tensor) in produced for tensor in student.outputs):
        readers.append(student)
    return readers


def kd_layers_of(student):
    """The KD layers of a student by name, in the order of its graph."""
    return {layer.name: layer for layer in student.layers if isinstance(layer, KDLayer)}


def check_functional(model, argument):
    """Refuse what is not a functional model with one output.

    Raises:
        ValueError: Naming `argument`.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            f"`{argument}` must be a functional or sequential keras.Model, so that its layers can "
            f"be reached by name. Received: {argument}={model!r} of {type(model)}"
        )
    if len(model.outputs) != 1 or len(model.inputs) != 1:
        raise ValueError(
            f"`{argument}` must have one input and one output. "
            f"Received: {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )


def find_tap(model, name, argument="tap"):
    """The layer of a model that a tap names.

    Raises:
        ValueError: If there is none, naming close ones.
    """
    names = [layer.name for layer in model.layers]
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=5) or names[-5:]
        raise ValueError(
            f"`{argument}` must name a layer of {model.name!r}. Received: {argument}={name!r}. "
            f"Layers with a like name, or else the last ones: {', '.join(close)}"
        )
    return model.get_layer(name)


def spatial_shape(shape):
    """Height and width of a shape [B, H, W, C] under Keras' data format."""
    if keras.config.image_data_format() == "channels_last":
        return tuple(shape[1:3])
    return tuple(shape[2:4])
