"""Suggesting where KD layers, prototypes and other methods read features in a network."""

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
from letkd_keras.functional.feature_map_choice import FeatureMapChoice
from letkd_keras.functional.graph import (
    as_functional,
    flatten,
    is_called_once,
    nodes,
    output_shapes,
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
    transformers; the choice of the intermediate layer is this package's. Where earlier
    blocks have finer grids (Swin), it is the first block of tokens on the last grid. Where all
    blocks have the same grid (ViT, DeiT), it is the block at three quarters of the depth, number 9
    of 12. A block inside a composite layer is named `"vit_encoder/transformer_block_9"`.

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
    maps = _KerasMaps(model, argument)
    if {"penultimate", "intermediate"} <= maps.names:
        return {"penultimate": "penultimate", "intermediate": "intermediate"}
    maps.check_last()
    return {"penultimate": maps.point(maps.last), "intermediate": maps.intermediate()}


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
    maps = _KerasMaps(model, argument)
    named = [name for name in maps.names if re.fullmatch(r"stage\d+", name)]
    if named:
        return sorted(named, key=lambda name: int(name.removeprefix("stage")))
    maps.check_last()
    return maps.stage_ends()


class _KerasMaps(FeatureMapChoice):
    """The feature maps of a functional model."""

    def __init__(self, model, argument):
        self.model, self.argument = flatten(as_functional(model, argument)), argument
        self.names = {layer.name for layer in self.model.layers if self._is_called_once(layer)}
        self.shapes = output_shapes(self.model)
        self.token_grids = TokenGrids(self.model, self._shape)
        calls = [node for node in nodes(self.model) if not node.is_input]
        super().__init__(calls, cuts(calls))
        self.last = self.with_a_name(self._required_last_map())

    def _required_last_map(self):
        last = self.last_map()
        if last is None:
            check_classifier(self.model, self.argument)
            raise ValueError(
                f"`{self.argument}` must have a feature map [B, H, W, C], or tokens [B, N, C] that "
                "are patches, which it pools or flattens before its classifier. "
                f"Received: {self.model.name!r}, which does not. Name the layers"
            )
        return last

    def check_last(self):
        """Refuse a model in which the layer of the last feature map has no name of its own."""
        if not self.has_a_name(self.last):
            raise ValueError(
                f"`{self.argument}` must call the layer of its last feature map once, so that its "
                "name stands for one output: put `keras.layers.Identity(name=...)` after the last "
                f"call, or name the layers. Received: {self.model.name!r}, which calls "
                f"{self.last.operation.name!r} several times"
            )

    def point(self, call):
        return call.operation.name

    def has_a_name(self, call):
        return self._is_called_once(call.operation)

    def _is_called_once(self, operation):
        return is_called_once(self.model, operation)

    def with_a_name(self, call):
        while changes_little(call.operation) and not self.has_a_name(call):
            (source,) = call.input_tensors
            call = self.makers[id(source)]
        return call

    def grid(self, call):
        shapes = self._shapes(call)
        return spatial_shape(shapes[0]) if [len(shape) for shape in shapes] == [4] else None

    def token_grid(self, call):
        return self._grid_of_tokens(self._shapes(call)[0])

    def _grid_of_tokens(self, shape):
        layout = self.token_grids.layout(shape)
        return layout and layout[0]

    def products(self, call):
        return int(isinstance(call.operation, ONNXGraph)) or count_convolutions(call.operation)

    def merges(self, call):
        return merges(call.operation)

    def activates(self, call):
        return activates(call.operation)

    def activates_convolution(self, call):
        # A batch normalization may be between the two.
        if activates(call.operation):
            call = self._maker(call)
            while call and isinstance(call.operation, layers.BatchNormalization):
                call = self._maker(call)
        elif getattr(call.operation, "activation", activations.linear) is activations.linear:
            return False
        return (
            call is not None
            and isinstance(call.operation, layers.Conv2D)
            and call.operation.groups == 1
        )

    def _maker(self, call):
        return self.makers.get(id(call.input_tensors[0]))

    def pads(self, call):
        return isinstance(call.operation, layers.ZeroPadding2D)

    def gives_scores(self, call):
        return (
            isinstance(call.operation, layers.Conv2D)
            and call.operation.filters == self.model.outputs[0].shape[-1]
        )

    def endings(self):
        # Global pooling ends the maps, even if convolutions follow on a grid of 1 x 1 before the
        # flattening.
        return [
            (_pools_globally, self.grid),
            (self._leaves_tokens, self.token_grid),
            (self._leaves_the_grid, self.grid),
        ]

    def _leaves_tokens(self, call):
        """Whether a call selects some tokens, or pools or flattens them."""
        return self._selects_patches(call) or all(
            len(shape) <= 3 and not self.token_grids.layout(shape) for shape in self._shapes(call)
        )

    def _selects_patches(self, call):
        """Whether a call leaves out tokens that are no patches."""
        before, after = (self._shape(x[0]) for x in (call.input_tensors, call.output_tensors))
        given, left = map(self.token_grids.layout, (before, after))
        return None not in (given, left) and given[0] == left[0] and given[1] > left[1]

    def _leaves_the_grid(self, call):
        return all(
            len(shape) != 4 and not self.token_grids.layout(shape) for shape in self._shapes(call)
        )

    def token_blocks(self):
        # A class token may be left out after the last block.
        grid = self.token_grid(self.last)
        names = token_blocks(
            self.until_last, self._shape, lambda shape: self._grid_of_tokens(shape) == grid
        )
        called = [node.operation.name for node in self.calls]
        return [name if called.count(name.partition("/")[0]) == 1 else None for name in names]

    def _shape(self, tensor):
        return self.shapes[id(tensor)]

    def _shapes(self, call):
        return [self._shape(tensor) for tensor in call.output_tensors]


def _pools_globally(call):
    pooling = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    return isinstance(call.operation, pooling)
