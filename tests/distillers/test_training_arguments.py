import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from letkd_keras.distillers import KD, Distiller
from letkd_keras.distillers.training_arguments import (
    check_class_weight,
    check_images_and_labels,
    check_loss,
    check_metrics,
    check_sample_weight,
    check_suits_labels,
    label_out_of_range,
)
from letkd_keras.losses import DISTLoss


def _classifier(classes=3, activation=None):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes, activation=activation)(x))


@pytest.mark.parametrize("bad", [0, 4, 299])
def test_the_first_image_that_is_not_finite_is_named(bad):
    images = np.zeros((300, 2, 2, 1), "float32")
    check_images_and_labels(images, np.zeros(300, int), 3)
    images[bad:, 1, 0] = np.inf
    with pytest.raises(ValueError, match=rf"NaN or infinite values in image {bad}$"):
        check_images_and_labels(images, np.zeros(300, int), 3)


def test_the_label_that_tensorflow_refused_is_found():
    texts = {
        "Received a label value of 7 which is outside the valid range of [0, 3).": 7,
        "Received a label value of -2 which is outside the valid range of [0, 3).": -2,
        "indices[1,0] = 5 is not in [0, 3)": 5,
        "indices[1] = 5 is not in [0, 30)": None,
        "anything else": None,
    }
    for text, label in texts.items():
        assert label_out_of_range(RuntimeError(text), 3) == label


def test_images_without_a_label_are_refused_where_each_needs_one():
    labels = np.array([2, -1])
    check_images_and_labels(None, labels, 3, takes_unlabelled=True)
    with pytest.raises(ValueError, match=r"integers from 0 to 2, .*over them\. .*from -1 to 2"):
        check_images_and_labels(None, labels, 3)


def test_types_that_numpy_does_not_know_are_not_looked_at():
    labels = np.asarray(keras.ops.convert_to_tensor([[0.5, 0.5]], "bfloat16"))
    assert labels.dtype.kind == "V"
    check_images_and_labels(None, labels, 2)


def test_weights_of_an_unknown_number_of_dimensions_pass():
    unknown = SimpleNamespace(shape=SimpleNamespace(rank=None))
    check_sample_weight(unknown, np.zeros(3))


@pytest.mark.parametrize("weight", [np.inf, np.nan, -0.1])
def test_weights_of_classes_are_finite_and_at_least_0(weight):
    check_class_weight({0: 0.0, 1: 2}, 3)
    with pytest.raises(ValueError, match=r"`class_weight` must be .* of at least 0\. Received: 0:"):
        check_class_weight({0: weight}, 3)


def test_distributions_are_of_two_dimensions():
    distributions = np.full((2, 3), 1 / 3)
    check_images_and_labels(None, distributions, 3)
    with pytest.raises(ValueError, match=r"`y` must be integers from 0 to 2.*or distributions"):
        check_images_and_labels(None, distributions[..., None], 3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_distributions_add_up_to_one(dtype):
    r = np.random.default_rng(0)
    mixed = r.dirichlet(np.full(1000, 0.01), 8) if "float" in dtype else np.eye(8, 1000)
    check_images_and_labels(None, mixed.astype(dtype), 1000)
    check_images_and_labels(None, mixed[:0].astype(dtype), 1000)
    several = mixed + np.roll(mixed, 1, axis=0)
    with pytest.raises(ValueError, match=r"several labels for an .* from 0 that add up to .* to 2"):
        check_images_and_labels(None, several.astype(dtype), 1000)


@pytest.mark.parametrize("wrong", [[0, 0, 0], [-1, 1, 1], [np.nan, 0.5, 0.5]])
def test_a_row_that_is_no_distribution_is_refused(wrong):
    with pytest.raises(ValueError, match=r"`y` must be integers from 0 to 2, .*adds up to 1"):
        check_images_and_labels(None, np.array([[1, 0, 0], wrong]), 3)


def test_a_label_out_of_range_in_a_data_set_is_named():
    tf = pytest.importorskip("tensorflow")
    model = KD(_classifier(), _classifier())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = tf.data.Dataset.from_tensors((np.zeros((2, 8, 8, 3), "float32"), [0, 3]))
    weights = dict.fromkeys(range(3), 1.0)
    for options in ({}, {"class_weight": weights}):
        with pytest.raises(ValueError, match=r"`y` must be .* from 0 to 2, .* with the label 3$"):
            model.fit(batches, verbose=0, **options)


@pytest.mark.parametrize(
    ("weights", "received"),
    [
        ({"lesion": 10.0}, "'lesion': 10.0"),
        ({0: 1.0, 3: 10.0}, "3: 10.0"),
        ({-1: 1.0}, "-1: 1.0"),
        ({0.5: 1.0}, "0.5: 1.0"),
        ({1: -1.0}, "1: -1.0"),
        ({1: float("nan")}, "1: nan"),
        ({1: "2"}, "1: '2'"),
        ({1: np.str_("2")}, re.escape(f"1: {np.str_('2')!r}")),
        ({1: np.array(-1.0)}, r"1: array\(-1.\)"),
        ({1: np.array([1.0])}, r"1: array\(\[1.\]\)"),
        ([1.0, 2.0, 3.0], r"class_weight=\[1.0, 2.0, 3.0\]"),
        (np.eye(3), r"class_weight=array\(\[\[1., 0., 0.\], \[0., 1., 0.\], \[0., 0., 1.\]\]\)"),
    ],
)
def test_weights_of_no_class_are_refused(weights, received):
    model = KD(_classifier(), _classifier())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64")
    match = rf"`class_weight` must be a dictionary .* from 0 to 2, .*Received: {received}$"
    with pytest.raises(ValueError, match=match):
        model.fit(x, y, class_weight=weights, verbose=0)


def test_weights_of_classes_are_taken():
    check_class_weight({np.int64(0): np.float32(2.0), 2: 0}, 3)
    check_class_weight({np.float32(0): 1.0, 2.0: 3}, 3)  # classes of labels that are floats
    check_class_weight({0: np.array(2.0), 1: keras.ops.convert_to_tensor(1.5)}, 3)


class _Batches(keras.utils.PyDataset):
    def __init__(self, *batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def test_the_first_batch_of_a_py_dataset_is_checked(caplog):
    x = np.zeros((2, 8, 8, 3), "float32")
    model = KD(_classifier(), _classifier())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=r"labels from 0 to 3 .* in the first batch"):
        model.fit(_Batches((x, np.array([0, 3])), (x, np.array([0, 1]))), verbose=0)
    with pytest.raises(ValueError, match="infinite values in image 0 in the first batch"):
        model.fit(_Batches((x + np.inf, np.array([0, 1]))), verbose=0)
    caplog.set_level("INFO")
    check_images_and_labels(_Batches((x, np.array([0, -1]))), None, 3, takes_unlabelled=True)
    assert caplog.messages == ["1 of 2 images in the first batch have no label"]
    check_images_and_labels(_Batches(), None, 3)


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
    for use in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=r"`loss` must take logits.*of probabilities"):
            use(x, y)


def _own_crossentropy(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


@pytest.mark.parametrize(
    "loss",
    [
        None,
        "mse",
        _own_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        [keras.losses.CategoricalCrossentropy(from_logits=True)],
    ],
)
def test_other_losses_are_taken(loss):
    check_loss(loss, 3)


def test_losses_by_the_names_of_outputs_are_refused_before_the_training():
    """Keras has no such names for a model of a class of its own, and fails in its `CompileLoss`."""
    model = KD(_classifier(), _classifier())
    model.compile("sgd", {"fc": keras.losses.SparseCategoricalCrossentropy(from_logits=True)})
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64")
    for use in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match=r"^`loss` must be one loss.*with the keys fc"):
            use(x, y)


@pytest.mark.parametrize("loss", ["kl_divergence", keras.losses.Poisson(), keras.losses.Dice()])
def test_other_losses_of_probabilities_are_refused(loss):
    with pytest.raises(ValueError, match="`loss` must take logits"):
        check_loss(loss, 3)


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


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (keras.losses.SparseCategoricalCrossentropy, np.zeros(2, "int64")),
        (keras.losses.CategoricalCrossentropy, np.eye(3)[:2]),
    ],
)
def test_metrics_with_thresholds_are_refused_before_the_training(loss, labels):
    """With integer labels F1 fails before its result is looked at, and on JAX all of these do."""
    metrics = (keras.metrics.F1Score(threshold=0.5), keras.metrics.Precision(), keras.metrics.AUC())
    for metric in metrics:
        model = KD(_classifier(), _classifier())
        model.compile("sgd", loss(from_logits=True), metrics=[metric], run_eagerly=True)
        with pytest.raises(ValueError, match=r"`metrics` must take logits.*of probabilities"):
            model.evaluate(np.zeros((2, 8, 8, 3), "float32"), labels, verbose=0)


@pytest.mark.parametrize(
    "name", ["AUC", "BinaryAccuracy", "BinaryIoU", "KLDivergence", "Poisson", "Precision"]
)
def test_other_metrics_of_probabilities_are_refused(name):
    with pytest.raises(ValueError, match="`metrics` must take logits"):
        check_metrics([getattr(keras.metrics, name)()], ())


def test_a_threshold_of_f1_is_refused():
    check_metrics([keras.metrics.F1Score()], ())
    with pytest.raises(ValueError, match="`metrics` must take logits"):
        check_metrics([keras.metrics.F1Score(threshold=0.5)], ())


def test_an_auc_of_sigmoids_is_refused():
    with pytest.raises(ValueError, match=r"`metrics` must .* puts out: evaluate .*'a' of prob"):
        check_metrics([keras.metrics.AUC(from_logits=True, name="a")], ())


@pytest.mark.parametrize(
    ("metric", "has_option"),
    [
        (keras.metrics.CategoricalCrossentropy(), True),
        (keras.metrics.KLDivergence(), False),
        (keras.metrics.AUC(), False),
        (keras.metrics.Precision(), False),
    ],
)
def test_an_option_is_advised_if_the_metric_has_it_and_it_helps(metric, has_option):
    with pytest.raises(ValueError, match="evaluate") as error:
        check_metrics([metric], ())
    assert ("from_logits" in str(error.value)) == has_option


class _OwnCrossentropy(keras.metrics.SparseCategoricalCrossentropy):
    pass


def test_metrics_of_logits_or_of_their_order_are_taken():
    metrics = [
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
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
    check_loss(loss, 257)
    check_loss(["mse", keras.losses.MeanSquaredError(), None], 10**6)
    with pytest.raises(ValueError, match=r"dtype='float32' for 258 classes.* dtype=bfloat16"):
        check_loss(loss, 258)
    model = KD(_classifier(classes=258), _classifier(classes=258))
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"`loss` must have dtype='float32'"):
        model.fit(np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64"), verbose=0)


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


_SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
_CATEGORICAL = keras.losses.CategoricalCrossentropy(from_logits=True)
_FOCAL = keras.losses.CategoricalFocalCrossentropy(from_logits=True)
_BINARY = keras.losses.BinaryCrossentropy(from_logits=True)
_BINARY_FOCAL = keras.losses.BinaryFocalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("loss", "labels", "suitable"),
    [
        (_SPARSE, np.eye(3, dtype="float32"), r"\.CategoricalCrossentropy.* distributions"),
        (_SPARSE, np.eye(3, dtype="int32"), r"\.CategoricalCrossentropy.* distributions"),
        (_CATEGORICAL, np.arange(3), r"\.SparseCategoricalCrossentropy.* integers"),
        (_CATEGORICAL, np.arange(3)[:, None], r"\.SparseCategoricalCrossentropy.* integers"),
        (_FOCAL, np.arange(3), r"\.SparseCategoricalCrossentropy.* integers"),
        (_BINARY, np.arange(3), r"\.SparseCategoricalCrossentropy.* integers"),
        (_BINARY_FOCAL, np.arange(3)[:, None], r"\.SparseCategoricalCrossentropy.* integers"),
    ],
)
def test_a_loss_for_the_other_kind_of_labels_is_refused(loss, labels, suitable):
    model = KD(_classifier(), _classifier())
    model.compile("sgd", loss, run_eagerly=True)
    x = np.zeros((3, 8, 8, 3), "float32")
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=f"`loss` must be keras.losses{suitable}.* of shape"):
            call(x, labels, verbose=0)


def test_losses_that_suit_the_labels_are_taken():
    for loss, labels in (
        (_SPARSE, np.arange(3)),
        (_SPARSE, np.arange(3)[:, None]),
        (_CATEGORICAL, np.eye(3)),
        ([_CATEGORICAL], keras.KerasTensor((None, None))),
        # The number of classes is wrong, not the loss: Keras names both shapes.
        (_CATEGORICAL, np.eye(5)),
        (_CATEGORICAL, np.eye(3)[:, None]),
        (lambda y_true, y_pred: 0.0, np.arange(3)),
    ):
        check_suits_labels(loss, labels, 3)


@pytest.mark.parametrize("labels", [np.arange(3), np.eye(3, dtype="float32")])
def test_sample_weights_are_one_for_each_image(labels):
    x, teacher, student = np.zeros((3, 8, 8, 3), "float32"), _classifier(), _classifier()

    def compiled():
        model = KD(teacher, student)
        model.compile("sgd", _SPARSE if labels.ndim == 1 else _CATEGORICAL)
        return model

    expected = r"`sample_weight` must have .* \(batch,\) or \(batch, 1\).* of the shape "
    for call in ("fit", "evaluate", "train_on_batch"):
        # Keras with TensorFlow leaves the size of a batch open.
        with pytest.raises(ValueError, match=expected + r"\((None|3), 2\) for labels"):
            getattr(compiled(), call)(x, labels, sample_weight=np.ones((3, 2)))
    weights = np.array([0.0, 1.0, 2.0])
    losses = [
        compiled().evaluate(x, labels, sample_weight=each, verbose=0)
        for each in (weights, weights[:, None])
    ]
    assert losses[0] == losses[1]


class WithOwnLoss(Distiller):
    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        raise AssertionError("the weights are checked before")


def test_a_loss_of_the_method_gets_no_other_weights():
    x = np.zeros((3, 8, 8, 3), "float32")
    model = WithOwnLoss(_classifier(), _classifier(), loss_weights={"own": 1.0})
    model.compile("sgd", _SPARSE)
    with pytest.raises(ValueError, match="`sample_weight` must have one weight for each image"):
        model.compute_total_loss(x, np.arange(3), {"logits": x}, {"logits": x}, np.ones((3, 2)))


def test_weights_for_another_number_of_images_are_refused():
    labels = np.arange(3)
    for taken in (None, np.ones(3), np.ones((3, 1)), keras.KerasTensor((None, None))):
        check_sample_weight(taken, labels)
    for weights in (np.ones(1), np.ones((3, 1, 1)), np.float32(1), keras.KerasTensor((2, 1))):
        with pytest.raises(ValueError, match=r"`sample_weight` must .* for labels of the shape "):
            check_sample_weight(weights, labels)
    check_sample_weight(np.ones(1), keras.KerasTensor((None,)))


@pytest.mark.parametrize("labels", [np.array(["cat", "dog"]), np.array([0, 1], object)])
def test_labels_that_are_no_numbers_are_refused(labels):
    with pytest.raises(ValueError, match=r"`y` must be integers from 0 to 2, .* labels of type "):
        check_images_and_labels(None, labels, 3)


def test_texts_as_labels_of_a_data_set_are_refused():
    tf = pytest.importorskip("tensorflow")
    model = KD(_classifier(), _classifier())
    model.compile("sgd", _SPARSE)
    images, labels = np.zeros((2, 8, 8, 3), "float32"), np.array(["cat", "dog"])
    for batches in (
        tf.data.Dataset.from_tensors((images, labels)),
        tf.data.Dataset.from_tensors((images, labels[:, None])),
    ):
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match=r"`y` must be integers from 0 to 2, .* string$"):
                call(batches, verbose=0)


def test_distributions_in_bfloat16_are_taken():
    model = KD(_classifier(), _classifier())
    model.compile("sgd", _CATEGORICAL)
    labels = keras.ops.convert_to_numpy(keras.ops.eye(3, dtype="bfloat16"))
    assert isinstance(labels, np.ndarray) and labels.dtype == "bfloat16"
    model.fit(np.zeros((3, 8, 8, 3), "float32"), labels, verbose=0)


def test_labels_in_a_list_are_refused_before_the_training():
    model = KD(_classifier(), _classifier())
    model.compile("sgd", _SPARSE)
    with pytest.raises(ValueError, match=r"`y` must be one tensor of labels.* y=list"):
        model.fit(np.zeros((2, 8, 8, 3), "float32"), [0, 1], verbose=0)
