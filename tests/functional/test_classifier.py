import keras
import pytest
from small_vit import small_vit

from letkd_keras import fit_prototypes, suggest_layers
from letkd_keras.distillers import KD
from letkd_keras.functional import check_classifier


def _headless(model, layer):
    return keras.Model(model.inputs, model.get_layer(layer).output, name="headless")


def _resnet(**kwargs):
    return keras.applications.ResNet50(
        weights=None, include_top=False, input_shape=(32, 32, 3), **kwargs
    )


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (lambda: _resnet(), "`GlobalAveragePooling2D` and `Dense(classes)`"),
        (lambda: _resnet(pooling="avg"), "(`Dense(classes)`)"),
        (lambda: _headless(small_vit(), "norm"), "`GlobalAveragePooling1D` and `Dense(classes)`"),
    ],
)
def test_a_model_without_a_head_is_told_what_to_add(model, head):
    model = model()
    refusing = [check_classifier, lambda m: fit_prototypes(m, ([], []))]
    if "Pooling" in head:
        refusing.append(suggest_layers)
    for refuse in refusing:
        with pytest.raises(ValueError, match=r"no head\. Add one") as error:
            refuse(model)
        assert head in str(error.value)
    with pytest.raises(ValueError, match=r"`teacher` must be a classifier"):
        KD(model, small_vit())


def test_networks_of_convolutions_alone_are_classifiers():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 1)(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    check_classifier(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)))
    check_classifier(small_vit())


def test_logits_may_be_a_sum():
    inputs = keras.Input((8,))
    first, second = (keras.layers.Dense(3)(inputs) for _ in range(2))
    check_classifier(keras.Model(inputs, keras.layers.Add()([first, second])))


def test_one_output_is_no_classifier():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match=r"`net` must have at least two classes.*Dense\(2\)"):
        check_classifier(keras.Model(inputs, keras.layers.Dense(1)(inputs)), "net")
