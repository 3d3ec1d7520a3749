"""Distillation from a teacher in an ONNX file."""

import json

import keras
import numpy as np
import pytest
from in_a_process import in_a_process
from onnx_files import residual_network
from onnx_teacher_on_jax import history
from small_vit import small_vit

import letkd_keras as letkd
from letkd_keras.functional import open_onnx

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(12, 32, 32, 3)).astype("float32")
LABELS = RNG.integers(0, 3, 12)
# Of the network of the zoo: a block of another grid than the suggested one.
LAYERS = {"penultimate_layer": "penultimate", "intermediate_layer": "stage2"}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """A network of the zoo, and the same one in an ONNX file."""
    keras.utils.set_random_seed(0)
    teacher = letkd.models.build("resnet14", num_classes=3)
    folder = tmp_path_factory.mktemp("teacher")
    return teacher, open_onnx(letkd.export_student(teacher, folder, "onnx").path)


def history_of(method, teacher, **layers):
    keras.utils.set_random_seed(1)
    student = letkd.models.build("resnet8", num_classes=3)
    if method is letkd.LetKD:
        batches = [(IMAGES[:6], LABELS[:6]), (IMAGES[6:], LABELS[6:])]
        prototypes = letkd.fit_prototypes(teacher, batches, templates=4, **layers)
        model = letkd.LetKD(teacher, student, prototypes)
    else:
        model = method(teacher, student)
    model.compile(
        keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model, model.fit(
        IMAGES, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0
    ).history


@pytest.mark.parametrize("method", [letkd.KD, letkd.LetKD, letkd.distillers.AT])
def test_it_teaches_as_the_same_network_of_keras(method, teachers):
    check_same_histories(*(history_of(method, teacher, **LAYERS)[1] for teacher in teachers))


def check_same_histories(expected, found):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("method", [letkd.LetKD, letkd.distillers.AT])
def test_a_vision_transformer_teaches_as_in_keras(method, tmp_path):
    teacher = small_vit(size=32)
    path = letkd.export_student(teacher, tmp_path, "onnx").path
    check_same_histories(*(history_of(method, each)[1] for each in (teacher, open_onnx(path))))


def test_a_distiller_is_saved_with_it(teachers, tmp_path):
    model, _ = history_of(letkd.KD, teachers[1])
    model.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    histories = [
        each.fit(IMAGES, LABELS, batch_size=4, shuffle=False, verbose=0).history
        for each in (model, loaded)
    ]
    assert histories[0] == histories[1]


def test_xla_is_turned_off_where_it_cannot_compile_the_teacher(teachers):
    for teacher, expected in zip(
        teachers, (True, keras.backend.backend() != "tensorflow"), strict=True
    ):
        model = letkd.KD(teacher, letkd.models.build("resnet8", num_classes=3))
        assert model.supports_jit == expected


def test_a_student_of_an_onnx_file_is_refused(teachers, tmp_path):
    with pytest.raises(
        ValueError, match=r"`student` must be a network of Keras layers; .* 'stage1'"
    ):
        letkd.KD(teachers[0], teachers[1])


def test_it_teaches_on_jax_as_on_tensorflow(tmp_path):
    pytest.importorskip("jax", minversion="0.6.1")
    path = residual_network(tmp_path / "teacher.onnx", size=32)
    done = in_a_process("onnx_teacher_on_jax.py", path, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), history(path)
    assert found.pop("gradient") == 0
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
