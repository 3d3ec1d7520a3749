import keras

from letkd_keras.data_format import to_channels_last
from letkd_keras.distillers.layer_outputs import images_of
from letkd_keras.functional.graph import find_layer, retrace
from letkd_keras.functional.insertion import is_only_pooled, only_pooling
from letkd_keras.layers import AdaptiveAveragePooling


class TrainingGraph:
    """The student's graph as a step of letKD runs it: once, for logits and scores.

    It shares the student's layers and computes the same logits. KD layers also return their scores,
    and one that only a global average pooling reads pools first (`KDLayer.call`), so that its value
    convolution runs once per image.

    Not a Keras object on purpose: the weights are the student's, and are saved once.

    Args:
        student: Functional `keras.Model`.
        kd_layers: Mapping of a level's name to the `KDLayer` of the student that serves it.
        grids: Mapping of a level's name to the grid (height, width) that its scores are averaged
            to, where it is not the student's. `None` and a missing level leave them as they are.
        layers: Names of further layers of the student whose outputs are wanted.
        block_size: Images of the blocks in which KD layers compute (`KDLayer.call_in_blocks`).
            Instead of the scores the features that each KD layer reads are then returned. `None`
            for the whole batch at once.

    Call arguments:
        inputs: Images, or as `images_of`.
        training: Whether the student runs in training mode.

    Returns:
        Dictionary of `"logits"`, `"features"` (the list of the outputs of `layers`) and, under its
        level's name, the scores [B, H, W, K] of each KD layer, or with a `block_size` its input.

    Raises:
        ValueError: If the student has no such layer.
    """

    def __init__(self, student, kd_layers, grids=(), layers=(), block_size=None):
        # Of each level, the scores of its KD layer or what the layer reads.
        supervised, features = {}, {}
        grids = dict(grids)
        for name in layers:
            find_layer(student, name, "layers")
        # The output of a KD layer that pools first is no feature map.
        pooled = [
            layer
            for layer in kd_layers.values()
            if layer.name not in layers and is_only_pooled(student, layer)
        ]
        skipped = [only_pooling(student, layer) for layer in pooled]
        levels = {layer.name: level for level, layer in kd_layers.items()}

        def call(layer, *args, **kwargs):
            outputs = compute(layer, *args, **kwargs)
            if layer.name in layers:
                features[layer.name] = keras.tree.flatten(outputs)[0]
            return outputs

        def compute(layer, *args, **kwargs):
            if layer in skipped:
                return args[0]
            if layer.name not in levels:
                return layer(*args, **kwargs)
            level, pool_output = levels[layer.name], layer in pooled
            returns_scores = kwargs.get("return_scores")
            if block_size is not None:
                supervised[level] = args[0]
                if not returns_scores:
                    return _InTraining(layer, pool_output, block_size)(*args)
            outputs, scores = _InTraining(layer, pool_output)(*args)
            if block_size is None:
                maps = to_channels_last(scores, layer.data_format)
                supervised[level] = _resized(maps, grids.get(level), f"{layer.name}_grid")
            return (outputs, scores) if returns_scores else outputs

        inputs, logits = retrace(student, call_fn=call)
        outputs = {"logits": logits, "features": [features[name] for name in layers], **supervised}
        self._function = keras.Model(inputs, outputs, name="training_graph")

    def __call__(self, inputs, training):
        return self._function(images_of(inputs), training=training)


def _resized(scores, grid, name):
    if grid is None:
        return scores
    # As precise as the scores: they are the input of a loss.
    pooling = AdaptiveAveragePooling(
        grid, data_format="channels_last", dtype=scores.dtype, name=name
    )
    return pooling(scores)


class _InTraining(keras.layers.Layer):
    """A KD layer as the training graph calls it: for output and scores, or in blocks of images.

    A layer of its own since Keras wants the same number of outputs from all calls of a layer in
    functional models, and the student calls the KD layer for its features alone.
    """

    def __init__(self, kd_layer, pool_output, block_size=None):
        super().__init__(name=f"{kd_layer.name}_in_training", dtype=kd_layer.dtype_policy)
        self.kd_layer = kd_layer
        self.pool_output = pool_output
        self.block_size = block_size
        self.built = True

    def call(self, inputs, training=None):
        options = {"training": training, "pool_output": self.pool_output}
        if self.block_size is None:
            return self.kd_layer(inputs, return_scores=True, **options)
        return self.kd_layer.call_in_blocks(inputs, self.block_size, **options)

    def compute_output_spec(self, inputs, training=None):
        return self.kd_layer.compute_output_spec(
            inputs, return_scores=self.block_size is None, pool_output=self.pool_output
        )
