"""Feature maps of transformers: tokens [B, N, C] arranged as the grid of their patches."""

import math

import keras

from letkd_keras.data_format import check_data_format, spatial_shape
from letkd_keras.functional.composite_layers import outputs_at
from letkd_keras.functional.graph import layers_inside, nodes
from letkd_keras.layers.tokens_to_grid import TokensToGrid

# A class token, a distillation token and the registers of DINOv2 are fewer.
_MOST_EXTRA_TOKENS = 8
_SMALLEST_GRID = 4


class TokenGrids:
    """The grid of a transformer's tokens, from their number.

    The grid of the patches is known where the model embeds them with a convolution, as a layer of
    the model or inside one. Any tokens beyond the grid, at most 8, come first and are no patches.
    Where no such grid fits (a Swin transformer merges patches later), the grid has the proportions
    of the image, and is the largest one with at most 8 further tokens.

    Args:
        model: Functional `keras.Model` from images, without models inside.
        shape_of: Function from a tensor of the model to its shape.
    """

    def __init__(self, model, shape_of=lambda tensor: tensor.shape):
        image = shape_of(model.inputs[0])
        self.image = spatial_shape(image) if len(image) == 4 else (None, None)
        self.patches = []
        behind_tokens = set()
        for node in nodes(model):
            if node.is_input:
                continue
            sources = node.input_tensors
            if any(len(shape_of(t)) == 3 or id(t) in behind_tokens for t in sources):
                behind_tokens.update(id(tensor) for tensor in node.output_tensors)
                continue
            shape = shape_of(node.output_tensors[0])
            if len(shape) == 4:
                self.patches.append(spatial_shape(shape))
            elif len(shape) == 3 and len(sources) == 1 and len(shape_of(sources[0])) == 4:
                self.patches += _embedded_grids(node.operation, shape_of(sources[0]))

    def layout(self, shape):
        """Grid and number of extra tokens.

        Args:
            shape: Shape of a tensor.

        Returns:
            `((height, width), extra_tokens)`, or `None` if the tensor is no grid of tokens.
        """
        if len(shape) != 3 or shape[0] not in (None, 1) or None in shape[1:]:
            return None
        tokens = shape[1]
        for grid in reversed(self.patches):
            if None not in grid and math.prod(grid) >= _SMALLEST_GRID:
                extra = tokens - math.prod(grid)
                if 0 <= extra <= _MOST_EXTRA_TOKENS:
                    return tuple(grid), extra
        return grid_of_proportions(tokens, (1, 1) if None in self.image else self.image)


def grid_of_proportions(tokens, image):
    """The largest grid with the proportions of the image that a number of tokens can have.

    Args:
        tokens: Number of tokens, at most 8 of which are no patches.
        image: Height and width of the image.

    Returns:
        `((height, width), extra_tokens)`, or `None` if there is no such grid.
    """
    rows, columns = image
    for extra in range(_MOST_EXTRA_TOKENS + 1):
        patches = tokens - extra
        if patches < _SMALLEST_GRID:
            return None
        height = math.isqrt(patches * rows // columns)
        if height and patches % height == 0 and height * columns == patches // height * rows:
            return (height, patches // height), extra
    return None


def _embedded_grids(operation, shape):
    """Grids of the convolutions inside a layer for its input of a shape."""
    if not isinstance(operation, keras.layers.Layer):
        return []
    return [
        spatial_shape(layer.compute_output_shape(tuple(shape)))
        for layer in layers_inside(operation)
        if isinstance(layer, keras.layers.Conv2D)
    ]


def feature_maps(model, names, argument="layer"):
    """The outputs of named layers, with the tokens of transformers arranged as feature maps.

    Args:
        model: Functional `keras.Model` with one input and one output. Models inside are flattened.
        names: Names of layers; `"vit_encoder/block_9"` is a layer inside a composite layer.
        argument: Name of the argument in errors, or a list of one for each name.

    Returns:
        `(flat, maps)`: the flattened model, which shares all layers, and a list of symbolic tensors
        of it in the order of `names`. Outputs [B, N, C] have become [B, H, W, C] in Keras' data
        format, by a `TokensToGrid`. Outputs of other ranks stay as they are.

    Raises:
        ValueError: If there is no such layer, its tokens are no grid, or layers of the model have
            another data format than Keras.
    """
    flat, outputs = outputs_at(model, names, argument)
    if names:
        check_data_format(flat)
    grids, maps = None, []
    arguments = [argument] * len(names) if isinstance(argument, str) else argument
    for name, output, argument in zip(names, outputs, arguments, strict=True):
        if len(output.shape) == 3:
            grids = grids or TokenGrids(flat)
            layout = grids.layout(output.shape)
            if layout is None:
                raise ValueError(
                    f"`{argument}` must name a layer whose tokens are the patches of a grid and at "
                    f"most {_MOST_EXTRA_TOKENS} tokens before them. For other tokens, append a "
                    "`letkd_keras.layers.TokensToGrid` to the model and name it. "
                    f"Received: {argument}={name!r} of shape {tuple(output.shape)}"
                )
            output = TokensToGrid(*layout)(output)
        maps.append(output)
    return flat, maps
