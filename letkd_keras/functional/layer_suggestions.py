"""Suggesting where KD layers, prototypes and other methods read features in a network."""

import math
import re

from keras import layers

from letkd_keras.data_format import spatial_shape
from letkd_keras.functional.classifier import check_classifier
from letkd_keras.functional.composite_layers import open_layer
from letkd_keras.functional.graph import (
    IDLE_AT_INFERENCE,
    KERNELS,
    as_functional,
    flatten,
    is_called_once,
    layers_directly_inside,
    layers_inside,
    maker,
    nodes,
    output_shapes,
    readers,
)
from letkd_keras.functional.token_grid import TokenGrids

_MERGES = (layers.Add, layers.Concatenate, layers.Average, layers.Subtract, layers.Maximum)
_ACTIVATIONS = (
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.PReLU,
    layers.ELU,
)
# Operations on tensors (`x + shortcut`, `keras.ops.relu(x)`) are identified by the names of their
# classes, because Keras has no public names for these classes.
_MERGING_OPERATIONS = ("Add", "Concatenate")
_ACTIVATING_OPERATIONS = (
    "Relu",
    "ReLU",
    "Relu6",
    "Silu",
    "Gelu",
    "HardSwish",
    "HardSilu",
    "LeakyRelu",
)


def suggest_layers(model):
    """Suggest the layers of a classifier at which letKD supervises.

    The *penultimate* layer outputs the last feature map, before the grid is pooled or flattened, or
    before a last convolution to class scores, which are pooled (SqueezeNet).
    The *intermediate* layer outputs the first block on that grid. A block ends where a residual
    addition or a concatenation is computed or read, or is a layer that consists of several
    convolutions; all later layers depend on it alone. An activation that alone reads the block
    belongs to it. In a network without blocks, the first activation of a convolution over all
    channels is taken. A layer that is called several times has one name for several outputs and is
    not suggested: what an activation or dropout of this kind is called on is taken instead.

    In a transformer whose tokens [B, N, C] are patches, the penultimate layer outputs the last
    tokens before the class token is selected or the tokens are pooled. The paper has no
    transformers; the choice of the intermediate layer is this package's. Where patches are merged
    from stage to stage (Swin), it is the first block on the last grid, as above. Where all blocks
    have the same grid (ViT, DeiT), it is the block at three quarters of the depth, number 9 of 12.
    A block inside a composite layer is named `"vit_encoder/transformer_block_9"`.

    In ResNets, wide ResNets, ShuffleNets and MobileNets these are the layers of the paper. If the
    model has layers named `"penultimate"` and `"intermediate"`, like the networks of
    `letkd_keras.models`, these are returned. The image size may be open.

    Args:
        model: Functional or sequential `keras.Model` from images to class scores. Models inside are
            flattened.

    Returns:
        `{"penultimate": name, "intermediate": name}`. The latter is `None` if the last grid has
        only one block; letKD-1 is possible then.

    Raises:
        ValueError: If the model is not functional, has no feature map before its classifier, or the
            layer that outputs the last one is called several times.
    """
    maps = _FeatureMaps(model)
    if {"penultimate", "intermediate"} <= maps.names:
        return {"penultimate": "penultimate", "intermediate": "intermediate"}
    penultimate = maps.last.name
    if maps.has_tokens:
        intermediate = maps.token_block()
    else:
        block = maps.first_block()
        intermediate = block.name if block else None
    if intermediate == penultimate:
        intermediate = None
    return {"penultimate": penultimate, "intermediate": intermediate}


def suggest_stage_ends(model):
    """Suggest the layers at the ends of a classifier's stages, which feature methods use.

    A stage ends with the last feature map of a grid on which all later layers depend. The last
    stage ends with the penultimate layer. Preprocessing layers belong to no stage. A transformer
    whose blocks all have the same grid has four stages of equal depth. If the model has
    layers named `"stage1"`, `"stage2"` and so on, like the networks of `letkd_keras.models`, these
    are returned.

    Args:
        model: Functional or sequential `keras.Model` from images to class scores. Models inside are
            flattened.

    Returns:
        Names of the layers, from the finest grid to the coarsest.

    Raises:
        ValueError: If the model is not functional, has no feature map before its classifier, or the
            layer that outputs the last one is called several times.
    """
    maps = _FeatureMaps(model)
    named = [name for name in maps.names if re.fullmatch(r"stage\d+", name)]
    if named:
        return sorted(named, key=lambda name: int(name.removeprefix("stage")))
    return maps.stage_ends()


class _FeatureMaps:
    """The calls of a model up to its last feature map, with the shapes of their outputs."""

    def __init__(self, model):
        model = as_functional(model)
        self.model = flatten(model)
        self.names = {layer.name for layer in self.model.layers if self._has_a_name(layer)}
        self.shapes = output_shapes(self.model)
        self.token_grids = TokenGrids(self.model, lambda tensor: self.shapes[id(tensor)])
        calls = [node for node in nodes(self.model) if not node.is_input]
        last = self._with_a_name(calls[self._index_of_last(calls)])
        self.calls = calls[: calls.index(last) + 1]

    @property
    def last(self):
        """The operation that outputs the last feature map."""
        operation = self.calls[-1].operation
        if not self._has_a_name(operation):
            raise ValueError(
                "`model` must call the layer of its last feature map once, so that its name stands "
                "for one output: put `keras.layers.Identity(name=...)` after the last call, or "
                f"name the layers. Received: {self.model.name!r}, which calls {operation.name!r} "
                "several times"
            )
        return operation

    @property
    def has_tokens(self):
        """Whether the last feature map consists of tokens [B, N, C]."""
        return self._token_grid(self.calls[-1]) is not None

    def first_block(self):
        """The operation that outputs the first block on the last grid, or `None`."""
        grid = self._grid(self.calls[-1])
        convolutions = 0
        plain = None
        for node, is_cut in zip(self.calls, _cuts(self.calls), strict=True):
            operation = node.operation
            if self._grid(node) != grid:
                continue
            own_convolutions = _convolutions(operation)
            convolutions += own_convolutions
            if not (convolutions and is_cut):
                continue
            if _merges(operation) or own_convolutions > 1:
                block = self._with_activation(operation)
                if self._has_a_name(block):
                    return block
                continue
            # A convolution that only changes the grid before the first block is no block.
            is_place = convolutions > 1 and self._has_a_name(operation)
            if is_place and any(_merges(reader) for reader in readers(self.model, operation)):
                return self._with_activation(operation)
            if plain is None and _activates(operation) and _follows_convolution(node):
                activated = self._with_a_name(node).operation
                plain = activated if self._has_a_name(activated) else None
        return plain

    def token_block(self):
        """Name of the block of a transformer that serves the intermediate level, or `None`."""
        blocks = self._token_blocks()
        if self._merges_patches():
            return next((block for block in blocks if block), None)
        to_three_quarters = blocks[: 3 * len(blocks) // 4]
        return next((block for block in reversed(to_three_quarters) if block), None)

    def stage_ends(self):
        """Names of the operations that output the last map of each grid, from fine to coarse."""
        if self.has_tokens and not self._merges_patches():
            blocks = self._token_blocks()
            numbers = {quarter * len(blocks) // 4 for quarter in (1, 2, 3)} - {0}
            ends = [blocks[number - 1] for number in sorted(numbers)]
            return [*filter(None, ends), self.last.name]
        ends = []
        computed = self._computed_by_weights()
        last = self.last
        for node, is_cut in zip(self.calls, _cuts(self.calls), strict=True):
            padded = isinstance(node.operation, layers.ZeroPadding2D)
            is_map = self._any_grid(node) and id(node.output_tensors[0]) in computed
            if node.operation is last or (is_map and is_cut and not padded):
                # Without padding, a convolution makes the grid a little smaller: the same stage.
                end = self._with_a_name(node)
                if not self._has_a_name(end.operation):
                    continue
                if ends and self._any_grid(ends[-1])[0] < 1.5 * self._any_grid(node)[0]:
                    ends.pop()
                ends.append(end)
        return [node.operation.name for node in ends]

    def _merges_patches(self):
        """Whether a transformer has finer grids of tokens before its last one."""
        last = math.prod(self._token_grid(self.calls[-1]))
        grids = (self._token_grid(node) for node in self.calls)
        return any(math.prod(grid) >= 2 * last for grid in grids if grid)

    def _token_blocks(self):
        """Names of the blocks on the last grid of tokens, in order; `None` for one without."""
        shape = self.shapes[id(self.calls[-1].output_tensors[0])]
        names = _token_blocks(self.calls, lambda tensor: self.shapes[id(tensor)], shape)
        called = [node.operation.name for node in nodes(self.model)]
        return [name if called.count(name.partition("/")[0]) == 1 else None for name in names]

    def _index_of_last(self, calls):
        """Index of the call whose feature map the classifier pools or flattens."""
        makers = {id(tensor): i for i, node in enumerate(calls) for tensor in node.output_tensors}
        # Global pooling ends the maps, even if convolutions follow on a grid of 1 x 1 before the
        # flattening.
        for ends, grid in (
            (self._pools_globally, self._grid),
            (self._leaves_tokens, self._token_grid),
            (self._leaves_the_grid, self._grid),
        ):
            for node in reversed(calls):
                for source in node.input_tensors:
                    made = makers.get(id(source))
                    if made is None or grid(calls[made]) is None or not ends(node):
                        continue
                    # Another layer reads the map that a squeeze-and-excitation block pools.
                    reading = [n for n in calls if any(t is source for t in n.input_tensors)]
                    if len(reading) == 1 or all(ends(reader) for reader in reading):
                        return self._before_scores(calls, made, makers)
        check_classifier(self.model)
        raise ValueError(
            "`model` must have a feature map [B, H, W, C], or tokens [B, N, C] that are patches, "
            "which it pools or flattens before its classifier. "
            f"Received: {self.model.name!r}, which does not. Name the layers"
        )

    def _before_scores(self, calls, index, makers):
        """Index of the call whose map a last convolution makes class scores of, or the index given.

        In SqueezeNet and networks of convolutions alone, these scores are pooled.
        """
        if any(_convolutions(node.operation) for node in calls[index + 1 :]):
            return index
        node = calls[index]
        while not _convolutions(node.operation) and len(node.input_tensors) == 1:
            made = makers.get(id(node.input_tensors[0]))
            if made is None:
                return index
            node = calls[made]
        is_classifier = (
            isinstance(node.operation, layers.Conv2D)
            and node.operation.filters == self.model.outputs[0].shape[-1]
        )
        return makers.get(id(node.input_tensors[0]), index) if is_classifier else index

    def _pools_globally(self, node):
        pooling = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
        return isinstance(node.operation, pooling)

    def _leaves_tokens(self, node):
        """Whether a call selects the class token, or pools or flattens the tokens."""
        outputs = [self.shapes[id(tensor)] for tensor in node.output_tensors]
        return all(len(shape) <= 3 and not self.token_grids.layout(shape) for shape in outputs)

    def _leaves_the_grid(self, node):
        outputs = [self.shapes[id(tensor)] for tensor in node.output_tensors]
        return all(len(shape) != 4 and not self.token_grids.layout(shape) for shape in outputs)

    def _grid(self, node):
        """Height and width of a call's output, or `None` if it is not one feature map."""
        shapes = [self.shapes[id(tensor)] for tensor in node.output_tensors]
        return spatial_shape(shapes[0]) if [len(shape) for shape in shapes] == [4] else None

    def _token_grid(self, node):
        """Height and width of the patches that a call's first output consists of, or `None`."""
        layout = self.token_grids.layout(self.shapes[id(node.output_tensors[0])])
        return layout and layout[0]

    def _any_grid(self, node):
        return self._grid(node) or self._token_grid(node)

    def _computed_by_weights(self):
        """Identities of the tensors that depend on weights: preprocessed images do not."""
        computed = set()
        for node in self.calls:
            inputs = {id(tensor) for tensor in node.input_tensors}
            if _convolutions(node.operation) or inputs & computed:
                computed.update(id(tensor) for tensor in node.output_tensors)
        return computed

    def _with_activation(self, operation):
        reading = readers(self.model, operation)
        alone = len(reading) == 1 and _activates(reading[0])
        return reading[0] if alone and self._has_a_name(reading[0]) else operation

    def _has_a_name(self, operation):
        """Whether the name of an operation stands for one output."""
        return is_called_once(self.model, operation)

    def _with_a_name(self, node):
        """The call, or the one that its activation follows if the activation is called again."""
        while _changes_little(node.operation) and not self._has_a_name(node.operation):
            (source,) = node.input_tensors
            node = next(
                call for call in nodes(self.model) if any(t is source for t in call.output_tensors)
            )
        return node


def _cuts(calls):
    """For each call, whether all later calls depend on its output alone."""
    waiting = {}
    for node in calls:
        for tensor in node.input_tensors:
            waiting[id(tensor)] = waiting.get(id(tensor), 0) + 1
    produced = set()
    for node in calls:
        for tensor in node.input_tensors:
            waiting[id(tensor)] -= 1
        produced.update(id(tensor) for tensor in node.output_tensors)
        pending = {key for key in produced if waiting.get(key, 0) > 0}
        yield pending <= {id(tensor) for tensor in node.output_tensors}


def _token_blocks(calls, shape_of, shape, only_layers=False):
    """Names of the blocks among calls that map tokens of a shape to tokens of the same shape.

    A block ends where all later calls depend on its output alone: at a residual addition, or at a
    layer of several dense layers. Of the ends after one attention layer and before the next, the
    last counts. A layer of several blocks is looked into; operations on tensors in there have names
    that change.
    """
    ends, attentions = {}, 0
    for node, is_cut in zip(calls, _cuts(calls), strict=True):
        operation = node.operation
        attentions += _attends(operation)
        same = any(shape_of(tensor) == shape for tensor in node.input_tensors)
        if not (is_cut and same and shape_of(node.output_tensors[0]) == shape):
            continue
        if only_layers and not isinstance(operation, layers.Layer):
            continue
        names = [operation.name] if _merges(operation) or _convolutions(operation) > 1 else []
        if _holds_blocks(operation):
            names = _blocks_inside(operation, node.input_tensors[0]) or names
        if names:
            ends.setdefault(attentions, []).append(names)
    if attentions:
        return [name for number in sorted(ends) if number for name in ends[number][-1]]
    return [name for names in ends.get(0, ()) for name in names]


def _blocks_inside(layer, inputs):
    """Names of the blocks inside a layer; none if its code cannot be called symbolically."""
    try:
        opened = open_layer(layer, inputs)
    except ValueError:
        return []
    calls = [node for node in nodes(opened) if not node.is_input]
    inside = _token_blocks(
        calls, lambda tensor: tuple(tensor.shape), tuple(opened.inputs[0].shape), only_layers=True
    )
    return [f"{layer.name}/{name}" for name in inside]


def _attends(operation):
    """Whether an operation is or contains attention."""
    names = [type(operation).__name__]
    if isinstance(operation, layers.Layer):
        names += [type(layer).__name__ for layer in layers_inside(operation)]
    return any("attention" in name.lower() or name == "Softmax" for name in names)


def _holds_blocks(operation):
    """Whether a layer calls several blocks of one kind, each with dense layers and norms."""
    if not isinstance(operation, layers.Layer):
        return False
    kinds = [
        type(layer)
        for layer in layers_directly_inside(operation)
        if _convolutions(layer) > 1
        and any("Normalization" in type(part).__name__ for part in layers_inside(layer))
    ]
    return any(kinds.count(kind) > 1 for kind in kinds)


def _convolutions(operation):
    """Number of convolutions, or dense layers, that an operation is or consists of."""
    if not isinstance(operation, layers.Layer):
        return int(type(operation).__name__ in ("Conv", "DepthwiseConv", "SeparableConv"))
    parts = [operation, *layers_inside(operation)]
    return sum(any(name in KERNELS for name in _own_weights(part)) for part in parts)


def _own_weights(layer):
    inside = {id(weight) for part in layers_inside(layer) for weight in part.weights}
    return [weight.name for weight in layer.weights if id(weight) not in inside]


def _merges(operation):
    return isinstance(operation, _MERGES) or _is_tensor_operation(operation, _MERGING_OPERATIONS)


def _activates(operation):
    return isinstance(operation, _ACTIVATIONS) or _is_tensor_operation(
        operation, _ACTIVATING_OPERATIONS
    )


def _changes_little(operation):
    """Whether an operation is an activation, or does nothing at inference."""
    return _activates(operation) or isinstance(operation, IDLE_AT_INFERENCE)


def _is_tensor_operation(operation, names):
    return not isinstance(operation, layers.Layer) and type(operation).__name__ in names


def _follows_convolution(node):
    """Whether an activation follows a convolution over all channels, perhaps normalized."""
    source = maker(node.input_tensors[0])
    while isinstance(source, layers.BatchNormalization):
        source = maker(source.input)
    return isinstance(source, layers.Conv2D) and source.groups == 1
