import keras
import pytest
from small_problem import small_teacher
from small_vit import small_vit

from letkd_keras.functional import fingerprint
from letkd_keras.functional.fingerprint import architecture_fingerprint


def test_it_survives_saving_rebuilding_freezing_and_compiling(tmp_path):
    model = small_teacher()
    expected = fingerprint(model)
    assert len(expected) == 64
    model.save(tmp_path / "model.keras")
    assert fingerprint(keras.models.load_model(tmp_path / "model.keras")) == expected
    rebuilt = small_teacher(seed=1)
    rebuilt.set_weights(model.get_weights())
    assert [layer.name for layer in rebuilt.layers] != [layer.name for layer in model.layers]
    assert fingerprint(rebuilt) == expected
    model.compile("sgd", "mse")
    model.trainable = False
    assert fingerprint(model) == expected


def test_weights_without_names_of_their_own_do_not_change_it(tmp_path):
    model = small_vit(size=16, classes=3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [weight.name for weight in loaded.weights] != [weight.name for weight in model.weights]
    assert fingerprint(loaded) == fingerprint(model)


def test_any_weight_changes_it():
    model = small_teacher()
    expected = fingerprint(model)
    for weight in model.weights:
        value = weight.numpy()
        weight.assign(value + 1e-6)
        assert fingerprint(model) != expected, weight.path
        weight.assign(value)
    assert fingerprint(model) == expected


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="must be built"):
        fingerprint(keras.Sequential([keras.layers.Dense(3)]))


def _rescaled(rescale, **options):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, **options)(rescale(inputs))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def test_architecture_is_what_a_model_computes_with_its_weights(tmp_path):
    model = _rescaled(keras.layers.Rescaling(1 / 255))
    expected = architecture_fingerprint(model)
    assert len(expected) == 64
    model.save(tmp_path / "model.keras")
    assert architecture_fingerprint(keras.models.load_model(tmp_path / "model.keras")) == expected
    assert architecture_fingerprint(_rescaled(keras.layers.Rescaling(1 / 255))) == expected
    model.compile("sgd", "mse")
    model.trainable = False
    assert architecture_fingerprint(model) == expected
    others = [
        _rescaled(keras.layers.Rescaling(1 / 127.5, offset=-1)),
        _rescaled(keras.layers.Rescaling(1 / 255), activation="relu"),
        _rescaled(lambda images: images / 255),
        _rescaled(lambda images: images / 127.5),
    ]
    assert len({expected, *map(architecture_fingerprint, others)}) == 5


def test_architecture_is_not_how_its_parts_were_built_or_compiled():
    def model(size):
        rescale = keras.layers.Rescaling(1 / 255, name="rescale")
        rescale.build((None, size, size, 3))
        part = keras.Sequential([keras.Input((8, 8, 3), name="image"), rescale])
        return _rescaled(part), part

    first, part = model(8)
    expected = architecture_fingerprint(first)
    assert architecture_fingerprint(model(16)[0]) == expected
    part.compile("sgd", "mse")
    assert architecture_fingerprint(first) == expected


def test_architecture_of_a_layer_that_cannot_be_saved():
    class Scaled(keras.layers.Layer):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def call(self, inputs):
            return self.scale(inputs)

    assert architecture_fingerprint(_rescaled(Scaled(lambda images: images / 255))) is None
