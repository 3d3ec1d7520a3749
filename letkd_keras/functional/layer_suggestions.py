"""Where KD layers and prototypes go in a network that does not name its taps."""

from keras import layers

from letkd_keras.functional.graph import check_functional, flatten, nodes, readers, spatial_shape

_MERGES = (layers.Add, layers.Concatenate, layers.Average, layers.Subtract, layers.Maximum)
_ACTIVATIONS = (
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.PReLU,
    layers.ELU,
)
# Operations on tensors (`x + shortcut`, `keras.ops.relu(x)`) are told by the names of their
# classes: Keras gives the classes no public place.
_MERGING_OPERATIONS = ("Add", "Concatenate")
_ACTIVATING_OPERATIONS = ("Relu", "Relu6", "Silu", "Gelu", "HardSwish", "HardSilu", "LeakyRelu")


def suggest_layers(model):
    """Layers of a classifier that the letKD taps are likely to follow.

    The *penultimate* tap is the last feature map before the grid is pooled or flattened away. The
    *intermediate* tap is the output of the first block on that grid: the first map that everything
    behind it comes from and that a residual addition or a concatenation made or reads, with the
    activation that alone reads it. In a network without such merges it is the first activation
    after a convolution over all channels.

    These are the paper's taps in ResNets, wide ResNets, ShuffleNets and MobileNets, as the zoo
    names them (`"penultimate"`, `"intermediate"`). They are a proposal for any other network.

    Args:
        model: Functional `keras.Model` from images to class scores.

    Returns:
        `{"penultimate": name, "intermediate": name}`; the latter is `None` where the grid of the
        former has no second block, so that letKD-1 remains.

    Raises:
        ValueError: If the model is not functional or has no feature map before its classifier.
    """
    check_functional(model, "model")
    model = flatten(model)
    if {"penultimate", "intermediate"} <= {layer.name for layer in model.layers}:
        return {"penultimate": "penultimate", "intermediate": "intermediate"}
    calls = [node for node in nodes(model) if not node.is_input]
    last = _last_map(calls, model)
    penultimate = calls[last].operation
    intermediate = _first_block(model, calls[: last + 1])
    if intermediate is penultimate:
        intermediate = None
    return {
        "penultimate": penultimate.name,
        "intermediate": intermediate.name if intermediate else None,
    }


def suggest_stage_ends(model):
    """Layers at the ends of a classifier's stages, where methods beside letKD take features.

    The stage of a grid ends with the last feature map on it that everything behind it comes from;
    the last stage ends with the penultimate tap. In the zoo these are the layers whose outputs the
    stages of RepDistiller's networks hand out, up to the activation that follows.

    Args:
        model: Functional `keras.Model` from images to class scores.

    Returns:
        Names of the layers, from the finest grid to the coarsest.

    Raises:
        ValueError: If the model is not functional or has no feature map before its classifier.
    """
    check_functional(model, "model")
    model = flatten(model)
    calls = [node for node in nodes(model) if not node.is_input]
    last = _last_map(calls, model)
    ends = {}
    for node, is_cut in zip(calls[:last], _cuts(calls[:last]), strict=True):
        output = node.output_tensors[0]
        padded = isinstance(node.operation, layers.ZeroPadding2D)
        if is_cut and not padded and len(output.shape) == 4:
            ends[spatial_shape(output.shape)] = node.operation.name
    ends[spatial_shape(calls[last].output_tensors[0].shape)] = calls[last].operation.name
    return list(ends.values())


def _last_map(calls, model):
    """Which call makes the feature map that the classifier pools or flattens."""
    makers = {id(tensor): i for i, node in enumerate(calls) for tensor in node.output_tensors}
    # Global pooling ends the maps even of one location; a flattening may come behind it, of what
    # convolutions made of the pooled features.
    for ends in (_pools_globally, _leaves_the_grid):
        for node in reversed(calls):
            source = node.input_tensors[0]
            made = makers.get(id(source))
            # What reads the map of a squeeze-and-excitation block is not alone.
            if made is None or len(source.shape) != 4 or not ends(node):
                continue
            if len(readers(model, calls[made].operation)) == 1:
                return made
    raise ValueError(
        f"`model` must pool or flatten a feature map [B, H, W, C] before its classifier. "
        f"Received: {model.name!r}, which has none; name the taps"
    )


def _pools_globally(node):
    pooling = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
    return isinstance(node.operation, pooling)


def _leaves_the_grid(node):
    return len(node.output_tensors[0].shape) != 4


def _first_block(model, calls):
    """The output of the first block on the grid of the last of the calls, or `None`."""
    grid = spatial_shape(calls[-1].output_tensors[0].shape)
    convolved = False
    plain = None
    for node, is_cut in zip(calls, _cuts(calls), strict=True):
        operation = node.operation
        output = node.output_tensors[0]
        if len(output.shape) != 4 or spatial_shape(output.shape) != grid:
            continue
        convolved = convolved or isinstance(
            operation, (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
        )
        if not (convolved and is_cut):
            continue
        reading = readers(model, operation)
        if _merges(operation) or any(_merges(reader) for reader in reading):
            alone = len(reading) == 1 and _activates(reading[0])
            return reading[0] if alone else operation
        if plain is None and _activates(operation) and _follows_convolution(node):
            plain = operation
    return plain


def _cuts(calls):
    """For each call, whether everything after it depends on its output alone."""
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


def _merges(operation):
    return isinstance(operation, _MERGES) or _is_tensor_operation(operation, _MERGING_OPERATIONS)


def _activates(operation):
    return isinstance(operation, _ACTIVATIONS) or _is_tensor_operation(
        operation, _ACTIVATING_OPERATIONS
    )


def _is_tensor_operation(operation, names):
    return not isinstance(operation, layers.Layer) and type(operation).__name__ in names


def _follows_convolution(node):
    """Whether an activation is that of a full convolution, perhaps through normalisation."""
    source = node.input_tensors[0]._keras_history.operation
    while isinstance(source, layers.BatchNormalization):
        source = source.input._keras_history.operation
    return isinstance(source, layers.Conv2D) and source.groups == 1
