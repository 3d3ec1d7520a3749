import keras
import numpy as np
import pytest

from letkd_keras.distillers import KD, FitNet
from letkd_keras.distillers.compatibility import (
    check_images_and_labels,
    check_metrics,
    check_takes_logits,
    check_tells_classes,
    matching_models,
)
from letkd_keras.losses import DISTLoss


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
    KD(teacher, student)


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


@pytest.mark.parametrize("bad", [0, 4, 299])
def test_the_first_image_that_is_not_finite_is_named(bad):
    images = np.zeros((300, 2, 2, 1), "float32")
    check_images_and_labels(images, np.zeros(300, int), 3)
    images[bad:, 1, 0] = np.inf
    with pytest.raises(ValueError, match=rf"NaN or infinite values in image {bad}$"):
        check_images_and_labels(images, np.zeros(300, int), 3)


def test_distributions_are_of_two_dimensions():
    distributions = np.full((2, 3), 1 / 3)
    check_images_and_labels(None, distributions, 3)
    with pytest.raises(ValueError, match=r"`y` must be integers from 0 to 2.*or distributions"):
        check_images_and_labels(None, distributions[..., None], 3)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "CategoricalCrossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
        [keras.losses.BinaryCrossentropy()],
    ],
)
def test_a_loss_of_probabilities_is_refused_before_the_training(loss):
    model = KD(_classifier(), _classifier(activation="softmax"))
    model.compile("sgd", loss)
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64")
    with pytest.raises(ValueError, match=r"`loss` must take logits.*of probabilities"):
        model.fit(x, y, verbose=0)


def _own_crossentropy(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


@pytest.mark.parametrize(
    "loss",
    [
        None,
        "mse",
        _own_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        {"fc": keras.losses.CategoricalCrossentropy(from_logits=True)},
    ],
)
def test_other_losses_are_taken(loss):
    check_takes_logits(loss)


def test_augmentation_inside_the_student_is_named_where_feature_maps_are_compared(caplog):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.RandomFlip(name="flip")(keras.layers.Rescaling(2.0)(inputs))
    student = keras.Model(inputs, _classifier()(x))
    KD(_classifier(), student)
    assert "moves images in training" not in caplog.text
    FitNet(_classifier(), student, student_layers=["conv"], teacher_layers=["conv"])
    assert "The student moves images in training (flip)" in caplog.text


@pytest.mark.parametrize("loss", ["kl_divergence", keras.losses.Poisson(), keras.losses.Dice()])
def test_other_losses_of_probabilities_are_refused(loss):
    with pytest.raises(ValueError, match="`loss` must take logits"):
        check_takes_logits(loss)


@pytest.mark.parametrize(
    "metric",
    [
        "sparse_categorical_crossentropy",
        keras.metrics.SparseCategoricalCrossentropy(),
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
    ],
)
def test_a_metric_of_probabilities_is_refused_before_the_training(metric):
    model = KD(_classifier(), _classifier())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy", metric])
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64")
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"`metrics` must take logits.*of probabilities"):
            use(x, y, verbose=0)


@pytest.mark.parametrize("name", ["AUC", "BinaryAccuracy", "KLDivergence", "Poisson", "Precision"])
def test_other_metrics_of_probabilities_are_refused(name):
    with pytest.raises(ValueError, match="`metrics` must take logits"):
        check_metrics([getattr(keras.metrics, name)()], ())


class _OwnCrossentropy(keras.metrics.SparseCategoricalCrossentropy):
    pass


def test_metrics_of_logits_or_of_their_order_are_taken():
    metrics = [
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        keras.metrics.AUC(from_logits=True),
        keras.metrics.Precision(top_k=1),
        keras.metrics.SparseCategoricalAccuracy(),
        keras.metrics.SparseTopKCategoricalAccuracy(5),
        keras.metrics.MeanMetricWrapper(_own_crossentropy),
        keras.metrics.MeanMetricWrapper(keras.losses.CategoricalCrossentropy(from_logits=True)),
        _OwnCrossentropy(),
    ]
    check_metrics(metrics, ("task_loss", "kd"))


def test_a_metric_and_a_loss_of_one_name_are_refused():
    added = {"accuracy": (DISTLoss(), 1.0)}
    model = KD(_classifier(), _classifier(), logit_losses=added)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64")
    with pytest.raises(ValueError, match=r"name of a loss .*kd, accuracy.* metric 'accuracy'"):
        model.fit(x, y, verbose=0)


def test_a_loss_that_would_round_labels_is_refused():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="bfloat16")
    check_tells_classes(loss, 257)
    check_tells_classes(["mse", keras.losses.MeanSquaredError(), None], 10**6)
    with pytest.raises(ValueError, match=r"dtype='float32' for 258 classes.* dtype=bfloat16"):
        check_tells_classes(loss, 258)
    model = KD(_classifier(classes=258), _classifier(classes=258))
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"`loss` must have dtype='float32'"):
        model.fit(np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64"), verbose=0)


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


@pytest.mark.parametrize("labels", [None, {"a": np.zeros(4, int)}], ids=["none", "dictionary"])
def test_what_is_no_tensor_of_labels_is_refused_by_name(labels):
    model = KD(_classifier(), _classifier())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match="`y` must be one tensor of labels"):
        model.fit(np.zeros((4, 8, 8, 3), "float32"), labels, verbose=0)


def test_labels_of_two_classes_may_be_booleans():
    model = KD(_classifier(classes=2), _classifier(classes=2))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.zeros((4, 8, 8, 3), "float32"), np.array([True, False] * 2)
    losses = [model.evaluate(x, labels, verbose=0) for labels in (y, y.astype(int))]
    assert losses[0] == pytest.approx(losses[1])
    model.fit(x, y, verbose=0)


def test_the_student_is_what_keras_exports(tmp_path):
    model = KD(_classifier(), _classifier())
    model.export(tmp_path / "student", verbose=False)
    assert (tmp_path / "student" / "saved_model.pb").exists()
