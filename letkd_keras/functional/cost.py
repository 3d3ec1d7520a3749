"""Parameters and multiply-adds of a network, counted from its graph."""

import inspect
import logging
import math
from dataclasses import dataclass

import keras

from letkd_keras.functional.composite_layers import open_layer
from letkd_keras.functional.graph import KERNELS, as_functional, flatten, is_model, run
from letkd_keras.functional.insertion import is_only_pooled
from letkd_keras.functional.quantization_aware_copy import without_fake_quantization
from letkd_keras.layers import KDLayer

log = logging.getLogger(__name__)

# Layers that apply their kernel once per location of their output.
_AT_EACH_OUTPUT = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
# Layers that apply their kernel once per location of their input.
_AT_EACH_INPUT = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
# Layers without matrix products, whose weights may be of several dimensions.
_ELEMENTWISE = (
    keras.layers.Embedding,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
    keras.layers.RMSNormalization,
)
# Weights that are statistics of data and not trained.
_STATISTICS = ("moving_mean", "moving_variance", "mean", "variance", "count")
# Operations without weights whose matrix products are not counted.
_PRODUCTS = {
    *("Einsum", "Dot", "Tensordot", "Vdot", "Attention", "AdditiveAttention"),
    *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv", "DotProductAttention"),
}


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    Attributes:
        parameters: Number of values in all weights, frozen or not, except running statistics.
        multiply_adds: Number of multiply-add operations in its matrix products for one image, or
            `None` where `known_cost_of` does not know it.
    """

    parameters: int
    multiply_adds: int | None


def cost_of(model, input_shape=None, pooled=False):
    """Count the parameters and the multiply-adds of a functional model.

    As in the tables of the literature, the multiply-adds of convolutions, dense layers, attention
    and KD layers are counted. Those of biases, normalization, activations, additions and pooling
    are not. A model with fake quantization is counted without it.

    Args:
        model: Functional or sequential `keras.Model` with one input and one output, perhaps with
            models inside.
        input_shape: Shape of one image. `None` means the model's own, which must then be known.
        pooled: Whether to count one value product per image, and not one per location, for a KD
            layer whose output is only read by a global average pooling. Distillation and exported
            students run such a layer in this way.

    Returns:
        A `Cost`.

    Raises:
        ValueError: If the image size is unknown, or if it is not known how to count a layer, which
            has weights of several dimensions, or is of another package and computes with other
            operations than those of Keras.
    """
    model = flatten(without_fake_quantization(as_functional(model)))
    shape = tuple(input_shape or model.inputs[0].shape[1:])
    if None in shape:
        raise ValueError(
            f"`input_shape` is needed, because {model.name!r} accepts images of any size. "
            f"Received: input_shape={input_shape}, images of {shape}"
        )
    source = keras.KerasTensor((1, *shape), dtype=model.inputs[0].dtype)
    return Cost(parameters_of(model), _multiply_adds_of(model, [source], pooled))


def _multiply_adds_of(model, sources, pooled=False):
    """Those of all operations of a model, given its inputs as symbolic tensors."""
    products = []

    def call(operation, *args, **kwargs):
        if is_model(operation):  # inside a layer of another package
            return run(operation, args, call)
        outputs = operation.compute_output_spec(*args, **kwargs)
        one_product = pooled and isinstance(operation, KDLayer) and is_only_pooled(model, operation)
        products.append(_multiply_adds(operation, args, kwargs, outputs, one_product))
        return outputs

    run(model, sources, call)
    return sum(products)


def known_cost_of(model, input_shape=None, pooled=False):
    """`cost_of`, but where that raises, multiply-adds are `None` and the log says why."""
    try:
        return cost_of(model, input_shape, pooled)
    except ValueError as error:
        log.info("multiply-adds of %s are not counted: %s", model.name, error)
        return Cost(parameters_of(model), None)


def parameters_of(model):
    """Count the values in the weights of a model or layer, except running statistics."""
    return sum(math.prod(w.shape) for w in model.weights if w.name not in _STATISTICS)


def _multiply_adds(operation, args, kwargs, outputs, one_product):
    if isinstance(operation, KDLayer):
        channels = args[0].shape[operation.channel_axis]
        locations = math.prod(args[0].shape[1:]) // channels
        values = (1 if one_product else locations) if operation.alpha > 0 else 0
        return (locations + values) * channels * operation.templates
    if isinstance(operation, _AT_EACH_INPUT):
        return _locations(args[0], operation) * math.prod(operation.kernel.shape)
    if isinstance(operation, _AT_EACH_OUTPUT):
        kernels = [getattr(operation, name, None) for name in KERNELS]
        size = sum(math.prod(kernel.shape) for kernel in kernels if kernel is not None)
        return _locations(outputs, operation) * size
    if isinstance(operation, keras.layers.EinsumDense):
        return _einsum(operation, args[0], outputs)
    if isinstance(operation, keras.layers.MultiHeadAttention):
        return _attention(operation, *args, **kwargs)
    if type(operation).__name__ == "Matmul":
        return math.prod(outputs.shape) * args[0].shape[-1]
    # Scales and biases of channels, such as the LayerScale of ConvNeXt, make no matrix products.
    has_kernel = any(len(weight.shape) > 1 for weight in getattr(operation, "weights", ()))
    known = isinstance(operation, _ELEMENTWISE) or not has_kernel
    if not known or type(operation).__name__ in _PRODUCTS:
        raise _unknown(operation)
    return _inside(operation, *args, **kwargs) if _is_custom(operation) else 0


def _is_custom(operation):
    """Whether an operation computes what neither Keras nor this package has written."""
    package = type(operation).__module__.split(".")[0]
    return package not in ("keras", "letkd_keras") or isinstance(operation, keras.layers.Lambda)


def _inside(operation, *args, **kwargs):
    """Those of the operations that a layer calls, which must be operations of Keras."""
    if not isinstance(operation, keras.layers.Layer):
        raise _unknown(operation)
    if "training" in inspect.signature(operation.call).parameters:
        kwargs["training"] = False
    try:
        opened = open_layer(operation, *args, **kwargs)
        sources = [keras.KerasTensor(source.shape, source.dtype) for source in opened.inputs]
        return _multiply_adds_of(opened, sources)
    except ValueError as error:
        raise _unknown(operation) from error


def _unknown(operation):
    kind = type(operation).__name__
    return ValueError(f"The multiply-adds of {operation.name!r} ({kind}) are unknown.")


def _einsum(layer, inputs, outputs):
    """One multiply-add for each output and each index that is summed over."""
    terms, result = layer.equation.split("->")
    read, kernel = terms.split(",")
    leading, _, trailing = read.partition("...")
    sizes = {
        **dict(zip(kernel, layer.kernel.shape, strict=True)),
        **dict(zip(leading, inputs.shape, strict=False)),
        **dict(zip(reversed(trailing), reversed(inputs.shape), strict=False)),
    }
    summed = [size for index, size in sizes.items() if index not in result]
    # Not the first size: in Keras 3.14 it is unknown, as when the layer was built. It is 1 here.
    return math.prod(outputs.shape[1:]) * math.prod(summed)


def _attention(layer, query, value, key=None, **kwargs):
    """Four projections, the scores, and their products with the values."""
    if len(query.shape) != 3:
        raise _unknown(layer)
    queries, values = query.shape[1], value.shape[1]
    projections = (
        (queries, layer.query_dense),
        (values, layer.key_dense),
        (values, layer.value_dense),
        (queries, layer.output_dense),
    )
    products = sum(length * math.prod(dense.kernel.shape) for length, dense in projections)
    return products + queries * values * layer.num_heads * (layer.key_dim + layer.value_dim)


def _locations(tensor, layer):
    """Number of locations of a feature map; 1 for a matrix [B, C]."""
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    shape = tensor.shape[2:] if channels_first else tensor.shape[1:-1]
    return math.prod(shape)
