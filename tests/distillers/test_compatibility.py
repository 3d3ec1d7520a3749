from types import SimpleNamespace

import keras
import numpy as np
import pytest

from letkd_keras.distillers import KD, FitNet
from letkd_keras.distillers.compatibility import matching_models, score_grid


def _classifier(size=8, classes=3, activation=None, channels=3):
    inputs = keras.Input((size, size, channels))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation, name="fc")(x))


def test_models_that_give_logits_are_returned_themselves():
    teacher, student = _classifier(), _classifier()
    matched = matching_models(teacher, student)
    assert matched[0] is teacher and matched[1] is student
    assert matching_models(None, student) == (None, student)


def test_without_its_softmax_a_model_shares_its_other_layers():
    teacher, student = _classifier(), _classifier(activation="softmax")
    _, logits = matching_models(teacher, student)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(keras.ops.softmax(logits(x)), student(x), rtol=1e-5, atol=1e-6)
    assert logits.get_layer("conv") is student.get_layer("conv")


def test_a_student_that_would_train_the_teacher_is_refused():
    teacher = _classifier()
    logits = keras.layers.Dense(3)(teacher.layers[-2].output)
    student = keras.Model(teacher.inputs[0], logits)
    with pytest.raises(ValueError, match=r"weights of `teacher`.* 2 weights of both, .*kernel"):
        KD(teacher, student)
    teacher.get_layer("conv").trainable = False
    model = KD(teacher, student)
    x, y = np.zeros((4, 8, 8, 3), "float32"), np.arange(4) % 3
    for use in (lambda: model.fit(x, y, verbose=0), lambda: model.train_on_batch(x, y)):
        model.student.get_layer("conv").trainable = True
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        with pytest.raises(ValueError, match=r"weights of `teacher`.* 2 weights of both"):
            use()
        model.student.get_layer("conv").trainable = False
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        use()


def test_sequential_models_can_be_distilled():
    layers = _classifier().layers[1:]
    student = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model = FitNet(_classifier(), student, student_layers=["conv"], teacher_layers=["conv"])
    assert model.student.get_layer("conv") is layers[0]


def test_feature_maps_of_another_data_format_are_refused():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Permute((3, 1, 2))(inputs)
    x = keras.layers.Conv2D(4, 3, data_format="channels_first", name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    student = keras.Model(inputs, keras.layers.Dense(3)(x), name="first")
    with pytest.raises(ValueError, match=r"'first' must have.* 'channels_last'.* 'conv' with"):
        FitNet(_classifier(), student, student_layers=["conv"], teacher_layers=["conv"])
    KD(_classifier(), student)


def test_open_image_sizes_match_any_size():
    teacher, student = _classifier(size=None), _classifier()
    assert matching_models(teacher, student) == (teacher, student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 4}, r"same number of classes. Received: teacher's 3 and student's 4"),
        ({"size": 12}, r"images of the same shape. Received: teacher's \(8, 8, 3\) and student's"),
        ({"channels": 1}, r"images of the same shape.*student's \(8, 8, 1\)"),
        ({"activation": "sigmoid"}, r"`student` must end in logits or in a softmax"),
    ],
)
def test_models_that_do_not_fit_are_refused_by_every_distiller(options, message):
    with pytest.raises(ValueError, match=message):
        KD(_classifier(), _classifier(**options))


def test_what_is_no_classifier_is_refused():
    inputs = keras.Input((8, 8, 3))
    maps = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    with pytest.raises(
        ValueError, match=r"`teacher` must be a classifier .*no head. Add one \(`GlobalAver"
    ):
        KD(maps, _classifier())


def test_a_negative_weight_of_the_task_is_refused():
    with pytest.raises(ValueError, match=r"`task_weight` must be .*task_weight=-0\.5"):
        KD(_classifier(), _classifier(), task_weight=-0.5)


def test_augmentation_inside_the_student_is_named_where_feature_maps_are_compared(caplog):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.RandomFlip(name="flip")(keras.layers.Rescaling(2.0)(inputs))
    student = keras.Model(inputs, _classifier()(x))
    KD(_classifier(), student)
    assert "moves images in training" not in caplog.text
    FitNet(_classifier(), student, student_layers=["conv"], teacher_layers=["conv"])
    assert "The student moves images in training (flip)" in caplog.text


def test_a_student_with_a_softmax_is_trained_with_the_distiller():
    student = _classifier(activation="softmax")
    model = KD(_classifier(), student)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = student.get_layer("fc").get_weights()
    images = np.ones((4, 8, 8, 3), "float32")
    model.fit(images, np.arange(4) % 2, verbose=0)
    assert not np.array_equal(student.get_layer("fc").get_weights()[1], before[1])
    logits = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        student.predict(images, verbose=0), keras.ops.softmax(logits), rtol=1e-5
    )


def test_the_student_is_what_keras_exports(tmp_path):
    model = KD(_classifier(), _classifier())
    model.export(tmp_path / "student", verbose=False)
    assert (tmp_path / "student" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    ("teacher", "student", "image_shape", "fitted", "expected"),
    [
        ((8, 4), (8, 4), None, (8, 4), None),
        ((8, 4), (8, 4), None, [8, 4], None),
        ((8, 4), (8, 4), None, (2, 9), (2, 4)),
        ((8, 4), (8, 4), None, (9, 2), (8, 2)),
        ((8, 4), (None, None), (16, 16, 3), (8, 4), None),  # the teacher tells the size
        ((None, None), (None, None), (6, 5, 3), (8, 4), (6, 4)),
        ((None, None), (None, None), None, (8, 4), None),
    ],
)
def test_the_grid_of_comparison_has_the_smaller_sides(
    teacher, student, image_shape, fitted, expected
):
    teacher, student = (keras.Input((*size, 3)) for size in (teacher, student))
    teacher = keras.Model(teacher, teacher)
    student = keras.Model(student, keras.layers.Conv2D(4, 1, name="conv")(student))
    prototypes = SimpleNamespace(grid=fitted)
    grid = score_grid(teacher, student, "conv", prototypes, "penultimate", image_shape)
    assert grid == expected
