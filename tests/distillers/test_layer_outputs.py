import keras
import numpy as np
import pytest

from letkd_keras.distillers.layer_outputs import LayerOutputs, images_of


def _model(size):
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(2, 1, name="maps")(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def test_images_alone_may_have_any_key():
    images = np.zeros((2, 4, 4, 3))
    assert images_of(images) is images
    assert images_of({"anything": images}) is images
    several = {"image": images, "row": np.arange(2)}
    assert images_of(several) is several


@pytest.mark.parametrize("size", [4, None])
def test_the_shape_of_the_features_is_known_where_the_model_knows_it(size):
    import tensorflow as tf

    model, shapes = _model(size), []
    graph = LayerOutputs(model, ("maps",))

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3))])
    def run(images):
        (features,) = graph(images, training=False)["features"]
        shapes.append(tuple(features.shape))
        return features

    images = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(run(images), model.get_layer("maps")(images), rtol=1e-5)
    assert shapes == [(None, size, size, 2)]
