import keras
import numpy as np
import pytest
from keras import layers

from letkd_keras import models
from letkd_keras.functional.graph import flatten
from letkd_keras.models import add_head, frozen_backbone
from letkd_keras.models.heads import classifier_layer


def images(count=4, size=8):
    return np.random.default_rng(0).standard_normal((count, size, size, 3)).astype("float32")


def backbone():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, name="conv")(inputs)
    return keras.Model(inputs, layers.BatchNormalization(name="bn")(x), name="backbone")


def head_of(model):
    layer = model.layers[-1]
    return np.asarray(layer.kernel), np.asarray(layer.bias)


def test_feature_maps_are_averaged():
    model = backbone()
    classifier = add_head(model, 5)
    kernel, bias = head_of(classifier)
    expected = np.asarray(model(images())).mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(classifier(images()), expected, atol=1e-5)
    assert classifier.layers[-1].name == "classifier"
    assert classifier.get_layer("conv") is model.get_layer("conv")


def test_tokens_are_averaged():
    inputs = keras.Input((8, 8, 3))
    tokens = layers.Reshape((16, 12))(inputs)
    model = keras.Model(inputs, layers.LayerNormalization()(tokens))
    classifier = add_head(model, 5)
    kernel, _ = head_of(classifier)
    expected = np.asarray(model(images())).mean(1) @ kernel
    np.testing.assert_allclose(classifier(images()), expected, atol=1e-5)


def test_pooled_features_are_read_as_they_are():
    model = backbone()
    pooled = keras.Model(model.input, layers.GlobalAveragePooling2D()(model.output))
    classifier = add_head(pooled, 5)
    assert classifier.layers[-1].kernel.shape == (6, 5)


@pytest.mark.parametrize("softmax", [True, False])
def test_the_head_of_other_classes_is_replaced(softmax):
    model = add_head(backbone(), 7)
    if softmax:
        model = keras.Model(model.input, layers.Activation("softmax")(model.output))
    classifier = add_head(model, 5)
    assert classifier.output_shape == (None, 5)
    # The old head has the name already, but is no longer in the graph.
    assert sum(isinstance(layer, layers.Dense) for layer in classifier.layers) == 1
    kernel, bias = head_of(classifier)
    expected = np.asarray(backbone_of(model)(images())) @ kernel + bias
    np.testing.assert_allclose(classifier(images()), expected, atol=1e-5)


def backbone_of(model):
    return keras.Model(model.input, classifier_layer(model).input)


def test_a_convolution_of_pooled_features_is_a_head():
    keras.utils.clear_session()
    model = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), alpha=0.25)
    classifier = add_head(model, 5)
    assert classifier.output_shape == (None, 5)
    assert "conv_preds" not in {layer.name for layer in classifier.layers}
    assert classifier.layers[-1].kernel.shape == (256, 5)


def test_models_inside_are_flattened():
    inputs = keras.Input((8, 8, 3), name="outer")
    classifier = add_head(keras.Model(inputs, backbone()(inputs)), 5)
    assert "conv" in {layer.name for layer in classifier.layers}


class Unsavable(layers.Layer):
    """A layer that cannot be made again from its configuration."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def test_the_head_of_a_model_inside_that_stays_inside_is_replaced():
    inside_inputs, inputs = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(Unsavable(lambda x: 2 * x)(inside_inputs))
    inside = keras.Model(inside_inputs, layers.Dense(4)(x))
    classifier = add_head(keras.Model(inputs, inside(inputs)), 5)
    assert [x.units for x in flatten(classifier).layers if isinstance(x, layers.Dense)] == [5]


def test_a_residual_addition_is_no_head():
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(inputs)
    x = layers.Add()([layers.Dense(3, name="inner")(x), x])
    model = keras.Model(inputs, x)
    assert "inner" in {layer.name for layer in add_head(model, 5).layers}
    with pytest.raises(ValueError, match="must end in a layer with weights"):
        classifier_layer(model)


@pytest.mark.parametrize("classes", [1, 0, 2.0, True])
def test_a_number_of_classes_out_of_range_is_refused(classes):
    with pytest.raises(ValueError, match=r"`num_classes` must be an integer of at least 2"):
        add_head(backbone(), classes)
    assert add_head(backbone(), np.int64(2)).output_shape == (None, 2)


def test_outputs_of_another_kind_are_refused():
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Reshape((8, 4, 2, 3))(layers.Conv2D(3, 1)(inputs))
    with pytest.raises(ValueError, match=r"must output features.*\(None, 8, 4, 2, 3\)"):
        add_head(keras.Model(inputs, outputs), 5)
    with pytest.raises(ValueError, match="`student` must output features"):
        add_head(keras.Model(inputs, outputs), 5, argument="student")


@pytest.mark.parametrize("network", ["small", "zoo"])
def test_only_the_head_is_trained(network):
    if network == "small":
        model, size = add_head(backbone(), 5), 8
    else:
        model, size = models.build("resnet8", 5), 32
    model.layers[1].trainable = False  # what was frozen before stays so
    before = {layer.name: layer.get_weights() for layer in model.layers}
    with frozen_backbone(model) as head:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        model.fit(images(size=size), np.array([0, 1, 2, 3]), epochs=1, verbose=0)
        assert len(model.trainable_weights) == 2
    for layer in model.layers:
        same = all(
            np.array_equal(was, now)
            for was, now in zip(before[layer.name], layer.get_weights(), strict=True)
        )
        assert same == (layer is not head), layer.name
        assert layer.trainable == (layer is not model.layers[1])


def test_what_is_frozen_inside_a_layer_stays_frozen():
    block = layers.TimeDistributed(layers.Dense(4))
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), block, layers.Flatten()])
    model = add_head(model, 5)
    block.layer.trainable = False
    model.layers[1].bias.trainable = False
    before = [weight.path for weight in model.trainable_weights]
    with frozen_backbone(model):
        assert len(model.trainable_weights) == 2
    assert [weight.path for weight in model.trainable_weights] == before
    assert block.trainable and not block.layer.trainable
