"""What a network costs: parameters and multiply-adds, counted from its graph."""

import math
from dataclasses import dataclass

import keras

from letkd_keras.functional.graph import check_functional
from letkd_keras.functional.insertion import is_only_pooled
from letkd_keras.layers import KDLayer

# Layers whose kernel is applied once at each location of their output.
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
# Layers whose kernel is applied once at each location of their input.
_AT_EACH_INPUT = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
# Layers with weights and no product of matrices.
_ELEMENTWISE = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
# Weights that are measured or counted, not learned.
_STATISTICS = ("moving_mean", "moving_variance", "mean", "variance", "count")
# Operations without weights that multiply matrices all the same.
_PRODUCTS = {
    *("Matmul", "Einsum", "Dot", "Tensordot", "Vdot", "Attention", "AdditiveAttention"),
    *("Conv", "ConvTranspose", "DepthwiseConv", "SeparableConv", "DotProductAttention"),
}


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: Number of learned values: all weights but running statistics, frozen or not.
        multiply_adds: Multiply-add operations of its matrix products for one image.
    """

    parameters: int
    multiply_adds: int


def cost_of(model, input_shape=None, pooled=False):
    """Count the parameters and the multiply-adds of a functional model.

    As in the tables of the literature, multiply-adds are those of convolutions, dense layers and
    KD layers; biases, normalisation, activations, additions and pooling are not counted.

    Args:
        model: Functional `keras.Model` of one input and one output, models inside it included.
        input_shape: Shape of one image; `None` takes the model's own, which must then be known.
        pooled: Whether a KD layer that only a global average pooling reads is counted in its
            pooled form, one value product an image, as distillation and exported students run it,
            rather than one at each location.

    Returns:
        A `Cost`.

    Raises:
        ValueError: If a size is not known, or a layer has weights or multiplies matrices in a way
            that is not known here: a number that leaves it out would be wrong.
    """
    check_functional(model, "model")
    shape = tuple(input_shape or model.inputs[0].shape[1:])
    if None in shape:
        raise ValueError(
            f"`input_shape` is needed, since {model.name!r} takes images of any size. "
            f"Received: input_shape={input_shape}, images of {shape}"
        )
    weights, products = {}, []

    def call(operation, *args, **kwargs):
        if isinstance(operation, keras.Sequential):
            x = args[0]
            for layer in operation.layers:
                x = call(layer, x)
            return x
        if isinstance(operation, keras.Model) and hasattr(operation, "_run_through_graph"):
            return operation._run_through_graph(keras.tree.flatten(args), call_fn=call)
        outputs = operation.compute_output_spec(*args, **kwargs)
        one_product = pooled and isinstance(operation, KDLayer) and is_only_pooled(model, operation)
        products.append(_multiply_adds(operation, args, outputs, one_product))
        weights.update({id(weight): weight for weight in getattr(operation, "weights", ())})
        return outputs

    source = keras.KerasTensor((1, *shape), dtype=model.inputs[0].dtype)
    model._run_through_graph([source], call_fn=call)
    learned = [weight for weight in weights.values() if weight.name not in _STATISTICS]
    return Cost(sum(math.prod(weight.shape) for weight in learned), sum(products))


def _multiply_adds(operation, args, outputs, one_product):
    if isinstance(operation, KDLayer):
        channels = args[0].shape[operation.channel_axis]
        locations = math.prod(args[0].shape[1:]) // channels
        values = (1 if one_product else locations) if operation.alpha > 0 else 0
        return (locations + values) * channels * operation.templates
    if isinstance(operation, _AT_EACH_INPUT):
        return _locations(args[0], operation) * math.prod(operation.kernel.shape)
    if isinstance(operation, _AT_EACH_OUTPUT):
        kernels = [getattr(operation, name, None) for name in _KERNELS]
        size = sum(math.prod(kernel.shape) for kernel in kernels if kernel is not None)
        return _locations(outputs, operation) * size
    known = isinstance(operation, _ELEMENTWISE) or not getattr(operation, "weights", ())
    if not known or type(operation).__name__ in _PRODUCTS:
        raise ValueError(
            f"The multiply-adds of {operation.name!r}, a {type(operation).__name__}, are not known."
        )
    return 0


def _locations(tensor, layer):
    """Places of a feature map; of a matrix [B, C], one."""
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    shape = tensor.shape[2:] if channels_first else tensor.shape[1:-1]
    return math.prod(shape)
