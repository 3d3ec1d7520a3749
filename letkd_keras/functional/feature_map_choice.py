"""The rule by which feature maps are chosen in a graph, of Keras layers or of an ONNX file."""

import math
from abc import ABC, abstractmethod


class FeatureMapChoice(ABC):
    """The feature maps of a graph from images to class scores that methods compare.

    `suggest_layers` and `suggest_stage_ends` describe the rule. What it asks about the calls of a
    graph is answered by the subclass for this kind of graph.

    Args:
        calls: The calls of the graph in the order in which they can run, without its input. Each
            has `input_tensors` and `output_tensors`, which are compared by identity.
        cuts: For each call, whether all later calls depend on it alone.
    """

    def __init__(self, calls, cuts):
        self.calls = calls
        self.makers = {id(tensor): call for call in calls for tensor in call.output_tensors}
        self.until_last = calls
        self._cuts = dict(zip(map(id, calls), cuts, strict=True))

    @property
    def last(self):
        """The call whose output is the last feature map."""
        return self.until_last[-1]

    @last.setter
    def last(self, call):
        self.until_last = self.calls[: self.calls.index(call) + 1]

    # What the kind of graph decides

    @abstractmethod
    def grid(self, call):
        """Height and width of a call's output, or `None` if it is not one feature map."""

    @abstractmethod
    def token_grid(self, call):
        """Height and width of the patches that a call's output consists of, or `None`."""

    @abstractmethod
    def products(self, call):
        """Number of convolutions and dense layers in a call."""

    @abstractmethod
    def merges(self, call):
        """Whether a call adds or joins tensors that depend on the image."""

    @abstractmethod
    def activates(self, call):
        """Whether a call is an activation."""

    @abstractmethod
    def activates_convolution(self, call):
        """Whether an activation, perhaps a convolution's own, is of one over all channels."""

    @abstractmethod
    def pads(self, call):
        """Whether a call pads a feature map."""

    @abstractmethod
    def gives_scores(self, call):
        """Whether a call is a convolution that gives each location scores of the classes."""

    @abstractmethod
    def endings(self):
        """How the last feature map may be used up.

        Returns:
            List of `(ends, grid)`, the first choice first. `ends(call)` says whether a call leaves
            the grid. `grid(call)` is the grid of a call that may give the last map, or `None`.
        """

    @abstractmethod
    def token_blocks(self):
        """The points of the blocks on the last grid of tokens, in order; `None` for one without."""

    @abstractmethod
    def point(self, call):
        """What the user of the rule names the output of a call by."""

    def is_cut(self, call):
        """Whether all later calls depend on a call alone."""
        return self._cuts[id(call)]

    def has_a_name(self, call):
        """Whether `point` stands for the output of this call alone."""
        return True

    def with_a_name(self, call):
        """The call, or an earlier one with nearly the same output if `point` does not stand for it.

        Returns:
            A call. It may have no name either.
        """
        return call

    # The rule

    def last_map(self):
        """The call whose feature map is pooled or flattened before the classifier, or `None`."""
        computed = self._computed_by_weights()
        for ends, grid in self.endings():
            for call in filter(ends, reversed(self.calls)):
                for source in call.input_tensors:
                    made = self.makers.get(id(source))
                    if made is None or id(made) not in computed or grid(made) is None:
                        continue
                    if ends(made):  # as where the patches are selected before they are averaged
                        continue
                    # Another layer reads the map that a squeeze-and-excitation block pools.
                    if all(map(ends, self._readers(made))):
                        return self._before_scores(made)
        return None

    def intermediate(self):
        """The first block on the last grid, or one of a transformer's, as a point, or `None`."""
        if self._has_tokens():
            found = self._token_block()
        else:
            block = self._first_block()
            found = self.point(block) if block else None
        return None if found == self.point(self.last) else found

    def stage_ends(self):
        """Points at the last map of each grid, from fine to coarse."""
        if self._has_tokens() and not self._has_finer_blocks():
            blocks = self.token_blocks()
            numbers = {quarter * len(blocks) // 4 for quarter in (1, 2, 3)} - {0}
            ends = [blocks[number - 1] for number in sorted(numbers)]
            return [*filter(None, ends), self.point(self.last)]
        ends = []
        computed = self._computed_by_weights()
        for call in self.until_last:
            is_end = id(call) in computed and self.is_cut(call) and not self.pads(call)
            if not self._any_grid(call) or not (is_end or call is self.last):
                continue
            end = self.with_a_name(call)
            if not self.has_a_name(end):
                continue
            # Without padding, a convolution makes the grid a little smaller: the same stage.
            if ends and self._any_grid(ends[-1])[0] < 1.5 * self._any_grid(call)[0]:
                ends.pop()
            ends.append(end)
        return [self.point(end) for end in ends]

    def _first_block(self):
        """The call at the end of the first block on the last grid, or `None`.

        It may be that of the last map.
        """
        grid = self.grid(self.last)
        products = 0
        plain = None
        for call in self.until_last:
            if self.grid(call) != grid:
                continue
            own_products = self.products(call)
            products += own_products
            if not (products and self.is_cut(call)):
                continue
            if self.merges(call) or own_products > 1:
                block = self._with_activation(call)
                if self.has_a_name(block):
                    return block
                continue
            # A convolution that only changes the grid before the first block is no block.
            may_end_block = products > 1 and self.has_a_name(call)
            if may_end_block and any(map(self.merges, self._readers(call))):
                return self._with_activation(call)
            if plain is None and self.activates_convolution(call):
                activated = self.with_a_name(call)
                plain = activated if self.has_a_name(activated) else None
        return plain

    def _token_block(self):
        """The block of a transformer that serves the intermediate level, or `None`."""
        blocks = self.token_blocks()
        if self._has_finer_blocks():
            return next((block for block in blocks if block), None)
        to_three_quarters = blocks[: 3 * len(blocks) // 4]
        return next((block for block in reversed(to_three_quarters) if block), None)

    def _has_tokens(self):
        return self.token_grid(self.last) is not None

    def _has_finer_blocks(self):
        """Whether a transformer has blocks on finer grids than its last one."""
        grids = list(map(self.token_grid, self.until_last))
        grids += [self.grid(x) for x in self.until_last if self.merges(x) and self.is_cut(x)]
        last = math.prod(self.token_grid(self.last))
        return any(math.prod(grid) >= 2 * last for grid in grids if grid)

    def _before_scores(self, last):
        """The call whose map a last convolution makes class scores of, or the call given.

        In SqueezeNet and networks of convolutions alone, these scores are pooled.
        """
        after = self.calls[self.calls.index(last) + 1 :]
        if any(map(self.products, after)):
            return last
        call = last
        while not self.products(call) and len(call.input_tensors) == 1:
            call = self.makers[id(call.input_tensors[0])]
        before = self.makers.get(id(call.input_tensors[0])) if self.gives_scores(call) else None
        return before or last

    def _any_grid(self, call):
        return self.grid(call) or self.token_grid(call)

    def _computed_by_weights(self):
        """Identities of the calls that depend on weights: preprocessed images do not."""
        computed = set()
        for call in self.calls:
            sources = {id(self.makers.get(id(tensor))) for tensor in call.input_tensors}
            if self.products(call) or sources & computed:
                computed.add(id(call))
        return computed

    def _readers(self, call):
        outputs = set(map(id, call.output_tensors))
        return [
            reader
            for reader in self.calls
            if any(id(tensor) in outputs for tensor in reader.input_tensors)
        ]

    def _with_activation(self, call):
        reading = [] if call is self.last else self._readers(call)
        alone = len(reading) == 1 and self.activates(reading[0])
        return reading[0] if alone and self.has_a_name(reading[0]) else call
