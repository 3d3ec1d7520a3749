"""A vision transformer of plain Keras layers."""

import keras
from keras import layers


@keras.saving.register_keras_serializable("letkd_keras_tests")
class ClassToken(layers.Layer):
    """Puts trainable tokens before the patches and adds an embedding of the positions."""

    def __init__(self, tokens=1, **kwargs):
        super().__init__(**kwargs)
        self.tokens = tokens

    def build(self, input_shape):
        _, patches, channels = input_shape
        self.own = self.add_weight(shape=(1, self.tokens, channels), initializer="uniform")
        self.positions = self.add_weight(shape=(1, self.tokens + patches, channels))
        self.built = True

    def call(self, inputs):
        own = keras.ops.tile(self.own, (keras.ops.shape(inputs)[0], 1, 1))
        return keras.ops.concatenate([own, inputs], axis=1) + self.positions

    def compute_output_shape(self, input_shape):
        batch, patches, channels = input_shape
        return batch, self.tokens + patches, channels

    def get_config(self):
        return {**super().get_config(), "tokens": self.tokens}


def small_vit(
    size=28, patch=4, channels=12, blocks=4, classes=3, tokens=1, pooling="token", seed=0
):
    """Patches, blocks of attention and dense layers with residual additions, a Dense head."""
    keras.utils.set_random_seed(seed)
    height, width = (size, size) if isinstance(size, int) else size
    inputs = keras.Input((height, width, 3))
    x = layers.Conv2D(channels, patch, patch, name="patches")(inputs)
    x = layers.Reshape((-1, channels))(x)
    if tokens:
        x = ClassToken(tokens, name="class_token")(x)
    for block in range(1, blocks + 1):
        y = layers.LayerNormalization()(x)
        x = layers.Add(name=f"attended{block}")([x, layers.MultiHeadAttention(2, 6)(y, y)])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(channels)(layers.Dense(2 * channels, activation="gelu")(y))
        x = layers.Add(name=f"block{block}")([x, y])
    if pooling == "patches before the norm":
        x = x[:, tokens:]
    x = layers.LayerNormalization(name="norm")(x)
    if pooling == "token":
        x = x[:, 0]
    elif pooling == "both":
        x = layers.Concatenate()([x[:, 0], keras.ops.mean(x, axis=1)])
    elif pooling == "patches":
        x = layers.GlobalAveragePooling1D()(x[:, tokens:])
    elif pooling == "token and patches":
        x = layers.Concatenate()([x[:, 0], keras.ops.mean(x[:, tokens:], axis=1)])
    else:
        x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="head")(x), name="small_vit")
