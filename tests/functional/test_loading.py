import zipfile

import keras
import numpy as np
import pytest

from letkd_keras.functional import load_model, loading
from letkd_keras.functional.loading import model_bytes, model_name, model_of_bytes


@pytest.fixture
def file(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def _with_entry(file, name, size):
    """A copy of a file in which an entry is `size` zeros, compressed to almost nothing."""
    copy = file.with_name("copy.keras")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if entry.filename != name:
                new.writestr(entry.filename, old.read(entry))
        with new.open(name, "w", force_zip64=True) as written:
            for _ in range(size // 2**20):
                written.write(bytes(2**20))
    return copy


def test_a_model_is_loaded(file):
    assert load_model(file).predict(np.zeros((1, 2)), verbose=0).shape == (1, 3)


def test_a_model_is_sent_as_bytes(file, recwarn):
    model, x = load_model(file), np.ones((1, 2))
    recwarn.clear()
    content = model_bytes(model)
    assert not recwarn
    copy = model_of_bytes(content)
    np.testing.assert_array_equal(copy.predict(x, verbose=0), model.predict(x, verbose=0))
    with pytest.raises(ValueError, match=r"`teacher` must be a complete \.keras file"):
        model_of_bytes(b"ab", "teacher")


@pytest.mark.parametrize("name", ["config.json", "metadata.json", "model.weights.h5"])
def test_entries_far_larger_than_the_file_are_refused_unread(file, name, monkeypatch):
    copy = _with_entry(file, name, 65 * 2**20)
    assert copy.stat().st_size < 2**20
    monkeypatch.setattr(keras.models, "load_model", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(ValueError, match=rf"plausible size.*{name} has 68157440 bytes"):
        load_model(copy)


def test_truncated_file(file):
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"`teacher` must be a complete \.keras file"):
        load_model(file, "teacher")


def _save_layer_of(module, path):
    """Save a model with a layer whose class is unknown again when the file is read."""

    @keras.saving.register_keras_serializable("elsewhere")
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    Twice.__module__ = module
    inputs = keras.Input((4,))
    keras.Model(inputs, Twice()(inputs)).save(path)
    assert isinstance(load_model(path).layers[-1], Twice)
    del keras.saving.get_custom_objects()["elsewhere>Twice"]


def test_packages_that_are_not_installed_are_named(tmp_path):
    path = tmp_path / "net.keras"
    _save_layer_of("not_here.src.layers", path)
    with pytest.raises(ImportError) as error:
        load_model(path, "teacher")
    assert str(error.value) == (
        f"`teacher` needs not-here: pip install not-here. Received: {str(path)!r}"
    )


def test_layers_of_unknown_classes_are_named(tmp_path):
    path = tmp_path / "net.keras"
    _save_layer_of("__main__", path)
    with pytest.raises(ValueError) as error:
        load_model(path, "model")
    assert str(error.value) == (
        "`model` must be a .keras file with layers of Keras or of this package. "
        f"Received: {str(path)!r} with 'Twice'"
    )


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


class OfItsOwn(keras.Model):
    """A functional model whose class Keras does not know."""


@pytest.mark.parametrize("is_functional", [False, True])
def test_a_model_of_an_unknown_class_is_called_subclassed(is_functional, tmp_path):
    if is_functional:
        inputs = keras.Input((3,))
        model = OfItsOwn(inputs, keras.layers.Dense(2)(inputs))
    else:
        model = Subclassed()
        model(np.zeros((1, 3), "float32"))
    path = tmp_path / "net.keras"
    model.save(path)
    with pytest.raises(ValueError) as error:
        load_model(path, "teacher")
    assert str(error.value) == (
        "`teacher` must be a .keras file of a functional or sequential model: build such a model "
        "from the layers of yours, and save it (docs/your_models.md). "
        f"Received: {str(path)!r}, a subclassed model of the class {type(model).__name__!r}"
    )
    with keras.saving.custom_object_scope({type(model).__name__: type(model)}):
        assert isinstance(load_model(path), type(model))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("model.weights.h5", "damaged")
        with pytest.raises(ValueError, match="file with layers of Keras"):
            load_model(path)


def test_the_name_of_a_model_is_read_without_loading_it(file, tmp_path, monkeypatch):
    expected = load_model(file).name
    monkeypatch.setattr(keras.models, "load_model", None)
    assert model_name(file) == expected
    (tmp_path / "text.keras").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "list.keras", "w") as archive:
        archive.writestr("config.json", "[1]")
    for name in ("text.keras", "list.keras", "missing.keras"):
        assert model_name(tmp_path / name) is None


def test_a_text_has_a_limit_of_its_own(file, monkeypatch):
    monkeypatch.setattr(loading, "_LARGEST_TEXT", 100)
    assert model_name(file) is None
    with pytest.raises(ValueError, match=r"plausible size.*whose config\.json has"):
        load_model(file)
