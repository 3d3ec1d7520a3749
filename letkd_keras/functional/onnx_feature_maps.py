"""Where the feature maps of an ONNX graph are that methods compare."""

POOLING = ("AveragePool", "MaxPool")
CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_GLOBAL_POOLING = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")
_PRODUCTS = (*CONVOLUTIONS, "Gemm", "MatMul")
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Gelu", "HardSwish")
_MERGES = ("Add", "Concat")


def feature_points(graph, named):
    """Choose the tensors that the layers of a model end with, as in `suggest_layers`.

    Args:
        graph: The graph, with `calls` (from the image to the logits), `cuts` (names of the tensors
            on which all later ones depend alone), `shapes` by tensor, and `grid(tensor)`: height
            and width of a feature map, `None` for another tensor.
        named: Tensors that the user chose, by level; `None` to have them chosen.

    Returns:
        List of `(names of layers, tensor)`, in order; empty if there is no feature map.
    """
    maps = _FeatureMaps(graph)
    penultimate = named["penultimate"] or maps.last_map()
    intermediate = named["intermediate"]
    if penultimate is None:
        return [(["intermediate"], intermediate)] if intermediate else []
    if intermediate is None and graph.grid(penultimate):
        intermediate = maps.first_block(penultimate)
    chosen = [(f"stage{n}", end) for n, end in enumerate(maps.stage_ends(penultimate), 1)]
    chosen += [("intermediate", intermediate), ("penultimate", penultimate)]
    return [
        (names, tensor)
        for tensor in graph.cuts
        if (names := [name for name, end in chosen if end == tensor])
    ]


class _FeatureMaps:
    """The feature maps among the tensors of a graph."""

    def __init__(self, graph):
        self.calls, self.cuts, self.shapes = graph.calls, graph.cuts, graph.shapes
        self.grid = graph.grid

    def last_map(self):
        """The feature map that is pooled or flattened before the classifier, or `None`."""
        ends = [
            (call, tensor)
            for call in reversed(self.calls[self._after_blocks() :])
            if (tensor := call.input_tensors[0]) in self.cuts[1:] and self.grid(tensor)
        ]
        # A grid of 1 x 1 is the last one only where no larger one is pooled or flattened.
        for leaves in (self._pools_globally, self._leaves_the_grid, self._leaves_one_location):
            for call, tensor in ends:
                if leaves(call):
                    return self._before_scores(tensor)
        return None

    def _after_blocks(self):
        """Number of the call after the last product that is part of a block.

        So a transformer, which goes on with blocks after the grid of its patches, has no last map.
        """
        last, products = 1, 0
        for number, call in enumerate(self.calls[1:], 2):
            if call.node.op_type in _PRODUCTS:
                products = number
            # Vectors are merged where two classifiers are averaged.
            elif products and _merges(call) and len(self.shapes[call.output_tensors[0]]) > 1:
                last = products
        return last

    def _pools_globally(self, call):
        before, after = self.grid(call.input_tensors[0]), self.grid(call.output_tensors[0])
        pools = call.node.op_type in POOLING and after == (1, 1)
        return before != (1, 1) and (
            pools or (call.node.op_type in _GLOBAL_POOLING and after in (None, (1, 1)))
        )

    def _leaves_the_grid(self, call):
        before, after = self.grid(call.input_tensors[0]), self.grid(call.output_tensors[0])
        return before != (1, 1) and after in (None, (1, 1))

    def _leaves_one_location(self, call):
        return call.node.op_type in _GLOBAL_POOLING or self.grid(call.output_tensors[0]) is None

    def _before_scores(self, tensor):
        """The map that a last convolution makes class scores of (SqueezeNet), or the one given."""
        until = self._until(tensor)
        after = self.calls[len(until) :]
        if any(call.node.op_type in _PRODUCTS for call in after):
            return tensor
        last = next(call for call in reversed(until) if call.node.op_type in CONVOLUTIONS)
        source = last.input_tensors[0]
        return source if source in self.cuts[1:] else tensor

    def _until(self, tensor):
        """The calls from the image to a tensor."""
        number = next(n for n, call in enumerate(self.calls) if tensor in call.output_tensors)
        return self.calls[: number + 1]

    def first_block(self, penultimate):
        """The end of the first block on the grid of the last feature map, or `None`."""
        convolutions, plain = 0, None
        for call in self._until(penultimate)[1:]:
            tensor = call.output_tensors[0]
            if self.grid(tensor) != self.grid(penultimate):
                continue
            convolutions += call.node.op_type in _PRODUCTS
            if not convolutions or tensor not in self.cuts:
                continue
            merges = _merges(call) or (
                # A convolution that only changes the grid before the first block is no block.
                convolutions > 1 and any(map(_merges, self._readers(tensor)))
            )
            if merges:
                block = self._with_activation(tensor)
                return None if penultimate in (tensor, block) else block
            if plain is None and call.node.op_type in _ACTIVATIONS:
                plain = tensor
        return None if plain == penultimate else plain

    def _readers(self, tensor):
        return [call for call in self.calls if tensor in call.input_tensors]

    def _with_activation(self, tensor):
        reading = self._readers(tensor)
        if len(reading) == 1 and reading[0].node.op_type in _ACTIVATIONS:
            return reading[0].output_tensors[0]
        return tensor

    def stage_ends(self, penultimate):
        """The last maps of each grid, from fine to coarse."""
        ends, convolutions = [], 0
        for call in self._until(penultimate)[1:]:
            tensor = call.output_tensors[0]
            convolutions += call.node.op_type in CONVOLUTIONS
            is_map = convolutions and self.grid(tensor) and call.node.op_type != "Pad"
            if is_map and tensor in self.cuts:
                # Without padding, a convolution makes the grid a little smaller: the same stage.
                if ends and self.grid(ends[-1])[0] < 1.5 * self.grid(tensor)[0]:
                    ends.pop()
                ends.append(tensor)
        return ends


def _merges(call):
    """Whether a call adds or joins tensors that depend on the image."""
    return call.node.op_type in _MERGES and len(call.input_tensors) > 1
