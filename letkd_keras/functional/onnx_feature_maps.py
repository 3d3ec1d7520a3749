"""Where the feature maps of an ONNX graph are that methods compare."""

import math

from letkd_keras.functional.feature_map_choice import FeatureMapChoice
from letkd_keras.functional.token_grid import grid_of_proportions

CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_GLOBAL_POOLING = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
_POOLING = ("AveragePool", "MaxPool", *_GLOBAL_POOLING)
_PRODUCTS = (*CONVOLUTIONS, "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "HardSwish")
_MERGES = ("Add", "Concat")


def feature_points(graph, named):
    """Choose the tensors that the layers of a model end with, as in `suggest_layers`.

    Args:
        graph: The graph, with `calls` (from the image to the logits), `cuts` (names of the tensors
            on which all later ones depend alone), `image` and `logits` (names of tensors), `shapes`
            by tensor without the batch dimension, and `grid(tensor)`: height and width of a feature
            map, `None` for another tensor.
        named: Tensors that the user chose, by level; `None` to have them chosen.

    Returns:
        List of `(names of layers, tensor)`, in order; empty if there is no feature map.
    """
    maps = _ONNXMaps(graph)
    penultimate, intermediate = named["penultimate"], named["intermediate"]
    if penultimate:
        last = next(call for call in maps.calls if maps.point(call) == penultimate)
    else:
        last = maps.last_map()
    ends = []
    if last is not None:
        maps.last = last
        penultimate = maps.point(last)
        if maps.grid(last) or maps.token_grid(last):
            intermediate = intermediate or maps.intermediate()
        ends = maps.stage_ends()
    chosen = [(f"stage{n}", end) for n, end in enumerate(ends, 1)]
    chosen += [("intermediate", intermediate), ("penultimate", penultimate)]
    return [
        (names, tensor)
        for tensor in graph.cuts
        if (names := [name for name, end in chosen if end == tensor])
    ]


class _ONNXMaps(FeatureMapChoice):
    """The feature maps of an ONNX graph. A point is the name of a tensor."""

    def __init__(self, graph):
        calls = graph.calls[1:]  # without that of the image
        super().__init__(calls, [call.output_tensors[0] in graph.cuts for call in calls])
        self.graph = graph
        self.token_grids = self._token_grids()
        self.last_product, last_merge = self._last_block()
        self.last_tokens = self._last_tokens(last_merge)

    def point(self, call):
        return call.output_tensors[0]

    def grid(self, call):
        return self.graph.grid(self.point(call)) if len(call.output_tensors) == 1 else None

    def token_grid(self, call):
        return self.token_grids[id(call)]

    def _token_grids(self):
        """The grid of the patches that each call's output consists of, or `None`, by identity."""
        grids, patches = {}, None
        for call in self.calls:
            # Convolutions inside a block of a transformer may give fewer patches.
            if call.node.op_type in CONVOLUTIONS and (self.is_cut(call) or not any(grids.values())):
                patches = self.grid(call)
            is_one = len(call.output_tensors) == 1
            grids[id(call)] = self._arranged(self._shape(call), patches) if is_one else None
        return grids

    def _arranged(self, shape, patches):
        """The grid of tokens, if it is that of the patches or what remains after merging them."""
        if patches is None or len(shape) != 2:
            return None
        # The rule by which the tokens are arranged later.
        layout = grid_of_proportions(shape[0], self.graph.grid(self.graph.image))
        if layout is None:
            return None
        grid, extra = layout
        if grid == patches:
            return grid
        # Where patches are merged, there are no further tokens. [C, H * W] is no merged grid.
        is_merged = not extra and shape[1] != math.prod(patches) and _is_merged(grid, patches)
        return grid if is_merged else None

    def products(self, call):
        return int(call.node.op_type in _PRODUCTS)

    def merges(self, call):
        return call.node.op_type in _MERGES and len(call.input_tensors) > 1

    def activates(self, call):
        return call.node.op_type in _ACTIVATIONS

    def activates_convolution(self, call):
        if not self.activates(call):
            return False
        source = self._maker(call)
        while source and source.node.op_type == "BatchNormalization":
            source = self._maker(source)
        return (
            source is not None and source.node.op_type in CONVOLUTIONS and _groups(source.node) == 1
        )

    def _readers(self, call):
        # Keras' exporter transposes a map before it is flattened, but not where it reads its shape.
        readers = []
        for reader in super()._readers(call):
            is_turned = reader.node.op_type == "Transpose" and self.grid(reader)
            readers += self._readers(reader) if is_turned else [reader]
        return readers

    def _maker(self, call):
        return self.makers.get(id(call.input_tensors[0]))

    def pads(self, call):
        return call.node.op_type == "Pad"

    def gives_scores(self, call):
        # Nothing but pooling follows, so its channels are the classes.
        return call.node.op_type in CONVOLUTIONS

    def endings(self):
        # A grid of 1 x 1 is the last one only where no larger one is pooled or flattened.
        return [
            (self._reads_last_tokens, self.token_grid),
            (self._pools_globally, self._late_grid),
            (self._leaves_the_grid, self._late_grid),
            (self._leaves_one_location, self._late_grid),
        ]

    def _last_block(self):
        """Numbers of the last product that is part of a block, and of the merge after it."""
        last, product = (-1, 0), -1
        for number, call in enumerate(self.calls):
            shape = self._shape(call)
            if self.products(call):
                product = number
            # Vectors are merged where two classifiers are averaged, or in the pooling of tokens.
            elif product >= 0 and self.merges(call) and not _is_vector(shape):
                last = product, number
        return last

    def _last_tokens(self, last_merge):
        """The call that gives the last tokens, before some are selected or a head reads them."""
        merged = self.calls[last_merge]
        last = None
        # After blocks on another map, [C, H * W] may look like tokens.
        if self.token_grid(merged):
            for call in self.calls[last_merge:]:
                if self.products(call):
                    break
                if self.is_cut(call) and self._shape(call) == self._shape(merged):
                    last = call
        return last

    def _reads_last_tokens(self, call):
        return self.last_tokens is not None and self.last_tokens in map(
            self.makers.get, map(id, call.input_tensors)
        )

    def _late_grid(self, call):
        """The grid of a call that can be the last map: no block follows, and it is a cut.

        So a transformer whose tokens are not known to be patches, which goes on with blocks after
        the grid of its patches, has no last map.
        """
        is_late = self.calls.index(call) >= self.last_product
        return self.grid(call) if is_late and self.is_cut(call) else None

    def _pools_globally(self, call):
        return call.node.op_type in _POOLING and self._leaves_the_grid(call)

    def _leaves_the_grid(self, call):
        before, after = self.graph.grid(call.input_tensors[0]), self.grid(call)
        return before != (1, 1) and after in (None, (1, 1))

    def _leaves_one_location(self, call):
        return call.node.op_type in _GLOBAL_POOLING or self.grid(call) is None

    def token_blocks(self):
        ends, attentions = {}, 0
        grid = self.token_grid(self.last)
        for call in self.until_last:
            attentions += call.node.op_type == "Softmax" or "Attention" in call.node.op_type
            # Where a class token joins the patches, no block ends.
            same = any(self.graph.shapes[x] == self._shape(call) for x in call.input_tensors)
            is_end = self.merges(call) and self.is_cut(call) and same
            if is_end and self.token_grid(call) == grid:
                ends.setdefault(attentions, []).append(self.point(call))
        if attentions:
            # The last addition after one attention and before the next.
            return [ends[number][-1] for number in sorted(ends) if number]
        return ends.get(0, [])

    def _shape(self, call):
        return self.graph.shapes[self.point(call)]


def _is_vector(shape):
    """Whether a shape, without the batch dimension, is [C] or [1, C]."""
    return len(shape) < 3 and math.prod(shape) == max(shape, default=1)


def _is_merged(grid, patches):
    """Whether a grid is what remains of another where squares of patches were merged."""
    side = patches[0] // grid[0]
    return (side * grid[0], side * grid[1]) == patches


def _groups(node):
    return next((each.i for each in node.attribute if each.name == "group"), 1)
