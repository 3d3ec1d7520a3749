import math

import keras
import numpy as np
import pytest
from keras import layers
from small_vit import small_vit

from letkd_keras.functional import feature_maps, suggest_layers, suggest_stage_ends
from letkd_keras.functional.composite_layers import open_layer, outputs_at
from letkd_keras.functional.token_grid import TokenGrids

NAMES = {"penultimate": "norm", "intermediate": "block3"}


def _images(*shape, count=2):
    return np.random.default_rng(0).random((count, *shape), "float32")


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({}, (7, 7)),
        ({"tokens": 0, "pooling": "mean"}, (7, 7)),
        ({"tokens": 5, "pooling": "both"}, (7, 7)),
        ({"pooling": "patches"}, (7, 7)),
        ({"pooling": "token and patches"}, (7, 7)),
        ({"pooling": "patches before the norm"}, (7, 7)),
        # Nine tokens would be a square of their own: the convolution of the patches decides.
        ({"size": 8, "tokens": 5}, (2, 2)),
        ({"size": (28, 12)}, (7, 3)),
    ],
)
def test_layers_and_grids_of_a_vision_transformer(options, grid):
    model = small_vit(**options)
    assert suggest_layers(model) == NAMES
    assert suggest_stage_ends(model) == ["block1", "block2", "block3", "norm"]
    flat, (maps,) = feature_maps(model, ["norm"])
    assert maps.shape == (None, *grid, 12)
    x = _images(*model.input_shape[1:])
    tokens, arranged = (
        keras.Model(m.inputs, output)(x)
        for m, output in ((model, model.get_layer("norm").output), (flat, maps))
    )
    patches = np.array(tokens)[:, -math.prod(grid) :]
    np.testing.assert_allclose(np.reshape(arranged, (2, -1, 12)), patches, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("blocks", "intermediate"), [(1, None), (2, "block1"), (6, "block4")])
def test_depth_of_the_intermediate_layer(blocks, intermediate):
    assert suggest_layers(small_vit(blocks=blocks))["intermediate"] == intermediate


@keras.saving.register_keras_serializable("test_token_grid")
class Embedding(layers.Layer):
    """Patches and a class token as one layer."""

    def __init__(self, patch=4, **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.Conv2D(6, patch, patch)

    def call(self, inputs):
        x = self.convolution(inputs)
        x = keras.ops.reshape(x, (-1, x.shape[1] * x.shape[2], 6))
        return keras.ops.pad(x, [[0, 0], [1, 0], [0, 0]])


@keras.saving.register_keras_serializable("test_token_grid")
class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.attention = layers.LayerNormalization(), layers.MultiHeadAttention(2, 3)
        self.dense1, self.dense2 = layers.Dense(8, activation="gelu"), layers.Dense(6)

    def call(self, inputs):
        y = self.norm(inputs)
        x = inputs + self.attention(y, y)
        return x + self.dense2(self.dense1(x))


@keras.saving.register_keras_serializable("test_token_grid")
class Encoder(layers.Layer):
    """All blocks as one layer; the names inside are those of layers outside as well."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = layers.Dropout(0.5, name="dropout")
        self.blocks = [Block(name=f"block_{number}") for number in range(4)]

    def call(self, inputs):
        x = self.dropout(inputs)
        for block in self.blocks:
            x = block(x)
        return x


def _composite():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 8, 3))
    x = Encoder(name="encoder")(Embedding(name="embedding")(inputs))
    x = layers.Dropout(0.1, name="dropout")(x[:, 0])
    return keras.Model(inputs, layers.Dense(3)(x))


def test_blocks_inside_a_layer_are_reached():
    model = _composite()
    names = suggest_layers(model)
    assert names == {"penultimate": "encoder", "intermediate": "encoder/block_2"}
    flat, maps = feature_maps(model, list(names.values()))
    assert [m.shape for m in maps] == [(None, 3, 2, 6)] * 2
    x = _images(12, 8, 3)
    *outputs, logits = keras.Model(flat.inputs, [*maps, *flat.outputs])(x, training=False)
    np.testing.assert_allclose(logits, model(x), rtol=1e-5, atol=1e-6)
    tokens = model.get_layer("embedding")(x)
    for number, block in enumerate(model.get_layer("encoder").blocks):
        tokens = block(tokens)
        if number >= 2:
            # Without the class token, which is the first.
            np.testing.assert_allclose(
                np.reshape(outputs[3 - number], (2, 6, 6)), tokens[:, 1:], rtol=1e-4, atol=1e-5
            )


def test_layers_that_are_not_inside_are_refused():
    with pytest.raises(ValueError, match=r"`where` must name a layer of 'encoder'.*'block_9'"):
        outputs_at(_composite(), ["encoder/block_9"], "where")
    with pytest.raises(ValueError, match="`layer` must name a layer"):
        outputs_at(_composite(), ["nowhere/block_1"])


def test_code_that_needs_numbers_is_refused():
    @keras.saving.register_keras_serializable("test_token_grid")
    class Eager(layers.Layer):
        def call(self, inputs):
            return inputs * float(inputs[0, 0])

    with pytest.raises(ValueError, match=r"reachable by calling it with a symbolic tensor.*Eager"):
        open_layer(Eager(name="eager"), keras.Input((3,)))


def test_tokens_that_are_no_grid_are_refused():
    # The next square below is 25.
    inputs = keras.Input((35, 4))
    x = layers.Dense(4, name="words")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    with pytest.raises(ValueError, match=r"`layer` must name a layer whose tokens are .*'words'"):
        feature_maps(model, ["words"])


def test_a_map_of_fewer_than_four_locations_is_no_grid_of_patches():
    inputs = keras.Input((8, 8, 3))
    patches = layers.Conv2D(6, 4, 4)(inputs)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(patches)
    tokens = layers.Reshape((4, 6))(patches) * layers.Reshape((1, 6))(gate)
    grids = TokenGrids(keras.Model(inputs, tokens))
    assert sorted(grids.patches) == [(1, 1), (2, 2)]
    assert grids.layout((None, 4, 6)) == ((2, 2), 0)
    assert grids.layout((None, 3, 6)) is None


def test_only_maps_before_the_tokens_are_grids_and_the_last_counts():
    inputs = keras.Input((6, 6, 3))
    patches = layers.Conv2D(6, 2)(layers.Conv2D(6, 2, 2)(inputs))
    tokens = layers.Reshape((4, 6))(patches)
    one_head = layers.Permute((2, 1, 3))(layers.Reshape((4, 1, 6))(tokens))
    grids = TokenGrids(keras.Model(inputs, one_head))
    assert grids.patches == [(3, 3), (2, 2)]
    assert grids.layout((None, 9, 6)) == ((2, 2), 5)
    assert grids.layout((4, 4, 6)) is None  # windows of an image


def _merging(depth=2):
    """Stages of tokens whose patches are merged, as in Swin."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((64, 6))(layers.Conv2D(6, 2, 2)(inputs))
    for stage in range(2):
        if stage:
            x = layers.Reshape((16, 24))(x)
            x = layers.Dense(6, name="merge")(x)
        for block in range(depth):
            x = Block(name=f"stage{stage}_block{block}")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(3)(keras.ops.mean(x, axis=1)))


def test_where_patches_are_merged_the_last_stage_counts():
    model = _merging()
    names = suggest_layers(model)
    assert names == {"penultimate": "norm", "intermediate": "stage1_block0"}
    assert suggest_stage_ends(model) == ["stage0_block1", "norm"]
    _, maps = feature_maps(model, ["stage0_block1", "norm"])
    assert [m.shape for m in maps] == [(None, 8, 8, 6), (None, 4, 4, 6)]


# Transformers of keras-hub

SIZES = {"num_layers": 4, "num_heads": 2, "hidden_dim": 16}


@pytest.fixture
def hub_models():
    return pytest.importorskip("keras_hub", exc_type=ImportError).models


def _hub_classifier(models, name):
    shape = (32, 32, 3)
    if name == "Swin":
        backbone = models.SwinTransformerBackbone(
            image_shape=shape,
            embed_dim=8,
            depths=(2, 2, 2),
            num_heads=(1, 2, 4),
            window_size=2,
            patch_size=2,
        )
        return models.SwinTransformerImageClassifier(backbone, num_classes=3)
    width = {"ViT": "mlp_dim", "DeiT": "intermediate_dim"}[name]
    backbone = getattr(models, f"{name}Backbone")(
        image_shape=shape, patch_size=8, **SIZES, **{width: 32}
    )
    return getattr(models, f"{name}ImageClassifier")(backbone, num_classes=3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "penultimate", "intermediate", "ends"),
    [
        ("ViT", "vit_encoder", "vit_encoder/transformer_block_3", 4),
        ("DeiT", "deit_encoder", "deit_encoder/transformer_block_3", 4),
        ("Swin", "norm", "stage_2/blocks_0", 3),
    ],
)
def test_transformers_of_keras_hub(hub_models, name, penultimate, intermediate, ends):
    model = _hub_classifier(hub_models, name)
    assert suggest_layers(model) == {"penultimate": penultimate, "intermediate": intermediate}
    names = suggest_stage_ends(model)
    assert len(names) == ends
    flat, maps = feature_maps(model, [penultimate, intermediate, *names])
    assert [m.shape[1:3] for m in maps[:2]] == [(4, 4), (4, 4)]
    x = _images(32, 32, 3)
    outputs = keras.Model(flat.inputs, [*flat.outputs, *maps])(x, training=False)
    np.testing.assert_allclose(outputs[0], model(x, training=False), rtol=1e-4, atol=1e-5)
