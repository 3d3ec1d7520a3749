"""Suggesting where KD layers, prototypes and other methods read features in a network."""

import math
import re

from keras import activations, layers

from letkd_keras.data_format import spatial_shape
from letkd_keras.functional.block_ends import (
    activates,
    changes_little,
    count_convolutions,
    cuts,
    merges,
    token_blocks,
)
from letkd_keras.functional.classifier import check_classifier
from letkd_keras.functional.graph import (
    as_functional,
    flatten,
    is_called_once,
    nodes,
    output_shapes,
    readers,
)
from letkd_keras.functional.token_grid import TokenGrids
from letkd_keras.layers.onnx_graph import ONNXGraph


def suggest_layers(model, argument="model"):
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
        argument: Name of the model in errors.

    Returns:
        `{"penultimate": name, "intermediate": name}`. The latter is `None` if the last grid has
        only one block; letKD-1 is possible then.

    Raises:
        ValueError: If the model is not functional, has no feature map before its classifier, or the
            layer that outputs the last one is called several times.
    """
    maps = _FeatureMaps(model, argument)
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


def suggest_stage_ends(model, argument="model"):
    """Suggest the layers at the ends of a classifier's stages, which feature methods use.

    A stage ends with the last feature map of a grid on which all later layers depend. The last
    stage ends with the penultimate layer. Preprocessing layers belong to no stage. A transformer
    whose blocks all have the same grid has four stages of equal depth. If the model has
    layers named `"stage1"`, `"stage2"` and so on, like the networks of `letkd_keras.models`, these
    are returned.

    Args:
        model: Functional or sequential `keras.Model` from images to class scores. Models inside are
            flattened.
        argument: Name of the model in errors.

    Returns:
        Names of the layers, from the finest grid to the coarsest.

    Raises:
        ValueError: If the model is not functional, has no feature map before its classifier, or the
            layer that outputs the last one is called several times.
    """
    maps = _FeatureMaps(model, argument)
    named = [name for name in maps.names if re.fullmatch(r"stage\d+", name)]
    if named:
        return sorted(named, key=lambda name: int(name.removeprefix("stage")))
    return maps.stage_ends()


class _FeatureMaps:
    """The calls of a model up to its last feature map, with the shapes of their outputs."""

    def __init__(self, model, argument):
        self.model, self.argument = flatten(as_functional(model, argument)), argument
        self.names = {layer.name for layer in self.model.layers if self._has_a_name(layer)}
        self.shapes = output_shapes(self.model)
        self.token_grids = TokenGrids(self.model, self._shape)
        calls = nodes(self.model)
        self.makers = {id(tensor): node for node in calls for tensor in node.output_tensors}
        self.calls = [node for node in calls if not node.is_input]
        last = self._with_a_name(self._last_map())
        self.calls = self.calls[: self.calls.index(last) + 1]

    @property
    def last(self):
        """The operation that outputs the last feature map."""
        operation = self.calls[-1].operation
        if not self._has_a_name(operation):
            raise ValueError(
                f"`{self.argument}` must call the layer of its last feature map once, so that its "
                "name stands for one output: put `keras.layers.Identity(name=...)` after the last "
                f"call, or name the layers. Received: {self.model.name!r}, which calls "
                f"{operation.name!r} several times"
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
        for node, is_cut in zip(self.calls, cuts(self.calls), strict=True):
            operation = node.operation
            if self._grid(node) != grid:
                continue
            own_convolutions = count_convolutions(operation)
            convolutions += own_convolutions
            if not (convolutions and is_cut):
                continue
            if merges(operation) or own_convolutions > 1:
                block = self._with_activation(operation)
                if self._has_a_name(block):
                    return block
                continue
            # A convolution that only changes the grid before the first block is no block.
            may_end_block = convolutions > 1 and self._has_a_name(operation)
            if may_end_block and any(merges(reader) for reader in readers(self.model, operation)):
                return self._with_activation(operation)
            if plain is None and self._activates_convolution(node):
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
        for node, is_cut in zip(self.calls, cuts(self.calls), strict=True):
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
        names = token_blocks(self.calls, self._shape, self._shapes(self.calls[-1])[0])
        called = [node.operation.name for node in nodes(self.model)]
        return [name if called.count(name.partition("/")[0]) == 1 else None for name in names]

    def _last_map(self):
        """The call whose feature map the classifier pools or flattens."""
        computed = self._computed_by_weights()
        # Global pooling ends the maps, even if convolutions follow on a grid of 1 x 1 before the
        # flattening.
        for ends, grid in (
            (_pools_globally, self._grid),
            (self._leaves_tokens, self._token_grid),
            (self._leaves_the_grid, self._grid),
        ):
            for node in filter(ends, reversed(self.calls)):
                for source in node.input_tensors:
                    made = self.makers[id(source)]
                    if id(source) not in computed or grid(made) is None:
                        continue
                    # Another layer reads the map that a squeeze-and-excitation block pools.
                    reading = (x for x in self.calls if any(t is source for t in x.input_tensors))
                    if all(map(ends, reading)):
                        return self._before_scores(made)
        check_classifier(self.model, self.argument)
        raise ValueError(
            f"`{self.argument}` must have a feature map [B, H, W, C], or tokens [B, N, C] that are "
            "patches, which it pools or flattens before its classifier. "
            f"Received: {self.model.name!r}, which does not. Name the layers"
        )

    def _before_scores(self, last):
        """The call whose map a last convolution makes class scores of, or the call given.

        In SqueezeNet and networks of convolutions alone, these scores are pooled.
        """
        after = self.calls[self.calls.index(last) + 1 :]
        if any(count_convolutions(node.operation) for node in after):
            return last
        node = last
        while not count_convolutions(node.operation) and len(node.input_tensors) == 1:
            node = self.makers[id(node.input_tensors[0])]
        is_classifier = (
            isinstance(node.operation, layers.Conv2D)
            and node.operation.filters == self.model.outputs[0].shape[-1]
        )
        before = self.makers[id(node.input_tensors[0])] if is_classifier else last
        return last if before.is_input else before

    def _leaves_tokens(self, node):
        """Whether a call selects the class token, or pools or flattens the tokens."""
        return all(
            len(shape) <= 3 and not self.token_grids.layout(shape) for shape in self._shapes(node)
        )

    def _leaves_the_grid(self, node):
        return all(
            len(shape) != 4 and not self.token_grids.layout(shape) for shape in self._shapes(node)
        )

    def _shape(self, tensor):
        return self.shapes[id(tensor)]

    def _shapes(self, node):
        return [self._shape(tensor) for tensor in node.output_tensors]

    def _grid(self, node):
        """Height and width of a call's output, or `None` if it is not one feature map."""
        shapes = self._shapes(node)
        return spatial_shape(shapes[0]) if [len(shape) for shape in shapes] == [4] else None

    def _token_grid(self, node):
        """Height and width of the patches that a call's first output consists of, or `None`."""
        layout = self.token_grids.layout(self._shapes(node)[0])
        return layout and layout[0]

    def _any_grid(self, node):
        return self._grid(node) or self._token_grid(node)

    def _computed_by_weights(self):
        """Identities of the tensors that depend on weights: preprocessed images do not."""
        computed = set()
        for node in self.calls:
            inputs = {id(tensor) for tensor in node.input_tensors}
            operation = node.operation
            is_onnx = isinstance(operation, ONNXGraph)
            if is_onnx or count_convolutions(operation) or inputs & computed:
                computed.update(id(tensor) for tensor in node.output_tensors)
        return computed

    def _with_activation(self, operation):
        reading = readers(self.model, operation)
        alone = len(reading) == 1 and activates(reading[0])
        return reading[0] if alone and self._has_a_name(reading[0]) else operation

    def _activates_convolution(self, node):
        """Whether an activation, perhaps the convolution's own, is that of one over all channels.

        A batch normalization may be between the two.
        """
        if activates(node.operation):
            node = self.makers[id(node.input_tensors[0])]
            while isinstance(node.operation, layers.BatchNormalization):
                node = self.makers[id(node.input_tensors[0])]
        elif getattr(node.operation, "activation", activations.linear) is activations.linear:
            return False
        return isinstance(node.operation, layers.Conv2D) and node.operation.groups == 1

    def _has_a_name(self, operation):
        """Whether the name of an operation stands for one output."""
        return is_called_once(self.model, operation)

    def _with_a_name(self, node):
        """The call, or the one that its activation follows if the activation is called again."""
        while changes_little(node.operation) and not self._has_a_name(node.operation):
            (source,) = node.input_tensors
            node = self.makers[id(source)]
        return node


def _pools_globally(node):
    pooling = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    return isinstance(node.operation, pooling)
