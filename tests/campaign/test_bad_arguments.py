"""Wrong arguments of the Python API: each is one clear error, before any long work."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_problem import SIZES, small_images, small_teacher

import letkd_keras as lk
from letkd_keras import distillers, losses
from letkd_keras.data import DataSpec, ImageData, training_batches
from letkd_keras.losses import logit_loss
from letkd_keras.models import build

NAN, INF = float("nan"), float("inf")
TEACHER, STUDENT = small_teacher(), small_teacher(width=4, seed=1)
X, Y = small_images()
PROTOTYPES = lk.fit_prototypes(TEACHER, (X, Y), **SIZES, verbose=False)


def _with(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


def _fit(data=(X, Y), teacher=TEACHER, **options):
    return lk.fit_prototypes(teacher, data, **{**SIZES, "verbose": False, **options})


def _letkd(*args, **options):
    return lk.LetKD(*(args or (TEACHER, STUDENT, PROTOTYPES)), **options)


def _train(x=X, y=Y):
    model = lk.KD(TEACHER, STUDENT)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, verbose=0)


def _batches(images=X, labels=Y):
    return tf.data.Dataset.from_tensor_slices((images, labels))


def _classifier(*layers, classes=5, shape=(8, 8, 3), **dense):
    x = inputs = keras.Input(shape)
    for layer in (*layers, keras.layers.Flatten()):
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(classes, **dense)(x), name="other")


def _quantized():
    model = _classifier(keras.layers.Conv2D(4, 3, name="conv"), name="logits")
    model.get_layer("logits").quantize("int8")
    return model


class _Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


class _Forgetful(keras.layers.Layer):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, inputs):
        return self.scale * inputs

    def get_config(self):
        return {"name": self.name}


def _images(**changes):
    values = {
        "name": "noise",
        "x_train": np.zeros((4, 8, 8, 3), "uint8"),
        "y_train": np.array([0, 1, 0, 1]),
        "x_test": np.zeros((2, 8, 8, 3), "uint8"),
        "y_test": np.array([0, 1]),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "class_names": ("a", "b"),
    }
    return ImageData(**{**values, **changes})


KD_LAYER = {
    "KDLayer(0)": (lambda: lk.KDLayer(0), "`templates` must be an integer of at least 1"),
    "KDLayer(True)": (lambda: lk.KDLayer(True), "`templates` must be .*templates=True"),
    "KDLayer(2.5)": (lambda: lk.KDLayer(2.5), "`templates` must be .*2.5"),
    "alpha -1": (lambda: lk.KDLayer(8, alpha=-1), "`alpha` must be a finite number of at least 0"),
    "alpha nan": (lambda: lk.KDLayer(8, alpha=NAN), "`alpha` must be .*nan"),
    "momentum 1": (lambda: lk.KDLayer(8, momentum=1), "`momentum` must be .*less than 1"),
    "epsilon 0": (
        lambda: lk.KDLayer(8, epsilon=0),
        "`epsilon` must be a finite number greater than 0",
    ),
    "scale inf": (
        lambda: lk.KDLayer(8, initial_template_scale=INF),
        "`initial_template_scale` must be a finite number",
    ),
    "data format": (lambda: lk.KDLayer(8, data_format="NHWC"), "`data_format` must be"),
    "vectors": (lambda: lk.KDLayer(8)(np.zeros((2, 8))), "expected ndim=4"),
    "open channels": (lambda: lk.KDLayer(8)(keras.Input((8, 8, None))), "number of channels"),
}
TARGETS = {
    "templates 0": (lambda: lk.PenultimateTargets(0), "`templates` must be an integer"),
    "temperature 0": (
        lambda: lk.PenultimateTargets(8, temperature=0),
        "`temperature` must be a finite number greater than 0",
    ),
    "pool size 0": (lambda: lk.PenultimateTargets(8, pool_size=0), "`pool_size` must be"),
    "subclasses 0": (lambda: lk.IntermediateTargets(5, 0, 3), "`subclasses` must be"),
    "components -1": (lambda: lk.IntermediateTargets(5, 2, -1), "`components` must be"),
}
LOSSES = {
    "name": (lambda: logit_loss("kdd"), r"`name` must be one of .*Did you mean kd"),
    "option": (lambda: logit_loss("dkd", betta=1), r"options of the loss dkd .*Did you mean beta"),
    "temperature 0": (lambda: logit_loss("kd", temperature=0), "`temperature` must be"),
    "temperature nan": (lambda: losses.DKDLoss(temperature=NAN), "`temperature` must be"),
    "dkd beta": (lambda: losses.DKDLoss(beta=INF), "`beta` must be a finite number of at least 0"),
    "dist gamma": (
        lambda: losses.DISTLoss(gamma=-1),
        "`gamma` must be a finite number of at least 0",
    ),
    "rld alpha": (
        lambda: losses.RLDLoss(alpha=NAN),
        "`alpha` must be a finite number of at least 0",
    ),
    "no pair": (lambda: losses.KDLoss()(np.zeros((2, 3)), np.zeros((2, 3))), "must be a pair"),
    "other classes": (
        lambda: losses.KDLoss()((np.zeros((2, 4)), np.zeros(2, int)), np.zeros((2, 3))),
        r"teacher's \(2, 4\), student's \(2, 3\)",
    ),
}
OPTIMIZERS = {
    "rate 0": (lambda: lk.TorchSGD(0), "`learning_rate` must be a finite number greater than 0"),
    "rate nan": (lambda: lk.TorchSGD(NAN), "`learning_rate` must be .*nan"),
    "momentum -1": (lambda: lk.TorchSGD(0.1, momentum=-1), "`momentum` must be"),
    "decay inf": (lambda: lk.TorchSGD(0.1, weight_decay=INF), "`weight_decay` must be"),
    "milestones": (lambda: lk.optimizers.epoch_decay(0.1, (3, 2), 5), "`milestones` must be incr"),
    "steps 0": (lambda: lk.optimizers.epoch_decay(0.1, (3,), 0), "`steps_per_epoch` must be"),
    "factor 0": (lambda: lk.optimizers.epoch_decay(0.1, (3,), 5, 0), "`factor` must be"),
}
DISTILLERS = {
    "no model": (lambda: lk.KD("teacher.keras", STUDENT), "`teacher` must be a functional"),
    "subclassed": (lambda: lk.KD(TEACHER, _Subclassed()), "`student` must be a functional"),
    "maps": (
        lambda: lk.KD(keras.Model(TEACHER.inputs, TEACHER.layers[3].output), STUDENT),
        "`teacher` must be a classifier with logits",
    ),
    "sigmoid": (lambda: lk.KD(TEACHER, _classifier(activation="sigmoid")), "logits or in a soft"),
    "classes": (lambda: lk.KD(TEACHER, _classifier(classes=4)), "teacher's 5 and student's 4"),
    "shapes": (lambda: lk.KD(TEACHER, _classifier(shape=(9, 9, 3))), "of the same shape.*9, 9, 3"),
    "temperature": (lambda: lk.KD(TEACHER, STUDENT, temperature=0), "`temperature` must be"),
    "weight": (
        lambda: lk.KD(TEACHER, STUDENT, weight=NAN),
        "`weight` must be a finite number of at least 0",
    ),
    "task weight": (lambda: lk.KD(TEACHER, STUDENT, task_weight=-1), "`task_weight` must be"),
    "warm-up": (
        lambda: distillers.DKD(TEACHER, STUDENT, warm_up_steps=INF),
        "`warm_up_steps` must be",
    ),
    "hint weight": (
        lambda: distillers.FitNet(TEACHER, STUDENT, weight=NAN),
        "`weight` must be",
    ),
    "layer": (
        lambda: distillers.FitNet(
            TEACHER, STUDENT, student_layers=["nolayer"], teacher_layers=["penultimate"]
        ),
        "`student_layers` must name a layer",
    ),
    "numbers of layers": (
        lambda: distillers.AT(TEACHER, STUDENT, student_layers=["penultimate"], teacher_layers=[]),
        "`student_layers` and `teacher_layers` must be of the same length",
    ),
    "logit losses": (
        lambda: lk.KD(TEACHER, STUDENT, logit_losses={"x": 3}),
        r"must be a pair \(loss, weight\)",
    ),
    "logit loss": (
        lambda: lk.KD(TEACHER, STUDENT, logit_losses={"x": ("kd", 1)}),
        "must be a keras.losses.Loss",
    ),
    "path of prototypes": (
        lambda: _letkd(TEACHER, STUDENT, "prototypes.npz"),
        "`prototypes` must be Prototypes.*'prototypes.npz'",
    ),
    "swapped": (lambda: _letkd(STUDENT, TEACHER, PROTOTYPES), "are swapped: the teacher comes fi"),
    "other teacher": (
        lambda: _letkd(small_teacher(seed=5), STUDENT, PROTOTYPES),
        "belong to another teacher",
    ),
    "levels": (lambda: _letkd(levels=("intermediat",)), "`levels` must"),
    "penultimate layer": (
        lambda: _letkd(penultimate_layer="nolayer"),
        "`penultimate_layer` must name a layer",
    ),
    "alpha": (
        lambda: _letkd(penultimate_alpha=-1),
        "`penultimate_alpha` must be a finite number of at least 0",
    ),
    "letkd weight": (
        lambda: _letkd(intermediate_weight=INF),
        "`intermediate_weight` must be a finite number of at least 0",
    ),
    "letkd temperature": (
        lambda: _letkd(temperature=0),
        "`temperature` must be a finite number greater than 0",
    ),
    "without teacher": (lambda: _letkd(None, STUDENT, PROTOTYPES), "`teacher` is needed"),
}
FIT = {
    "NaN images": (lambda: _train(x=_with(X, (3, 0, 0, 0), NAN)), "`x` must be finite.*image 3"),
    "infinite images": (lambda: _train(x=_with(X, 0, INF)), "`x` must be finite.*image 0"),
    "fractional labels": (lambda: _train(y=Y + 0.5), "`y` must be integers from 0 to 4"),
    "large labels": (lambda: _train(y=Y + 1), "`y` must be integers from 0 to 4.*from 1 to 5"),
    "negative labels": (lambda: _train(y=Y - 2), "`y` must be integers .*from -2 to 2"),
    "NaN labels": (lambda: _train(y=_with(Y.astype("float32"), 1, NAN)), "`y` must be integers"),
}
FIT_PROTOTYPES = {
    "templates 0": (lambda: _fit(templates=0), "`templates` must be an integer of at least 1"),
    "templates True": (lambda: _fit(templates=True), "`templates` must be an integer"),
    "subclasses": (lambda: _fit(subclasses=-1), "`subclasses` must be an integer"),
    "components": (lambda: _fit(components=0), "`components` must be an integer"),
    "iterations": (lambda: _fit(iterations=2.5), "`iterations` must be an integer"),
    "memory": (lambda: _fit(memory=INF), "`memory` must be"),
    "batch size": (lambda: _fit(batch_size=0), "`batch_size` must be"),
    "seed": (lambda: _fit(seed=-1), "`seed` must be"),
    "pool size": (lambda: _fit(pool_size=0), "`pool_size` must be"),
    "cache": (lambda: _fit(feature_cache="float64", workdir="w"), "`feature_cache` must be"),
    "cache without folder": (lambda: _fit(feature_cache="float32"), "`workdir`"),
    "levels": (lambda: _fit(levels=("intermediate",)), "`levels` must be"),
    "too many templates": (lambda: _fit(templates=10**6), "at least as many feature vectors as cl"),
    "layer": (lambda: _fit(penultimate_layer="nolayer"), "`penultimate_layer` must name a layer"),
    "path": (lambda: _fit("digits.npz"), "not a path: open it with letkd_keras.data"),
    "images only": (lambda: _fit(X), "must be a pair of arrays or a set of batches"),
    "generator": (lambda: _fit(batch for batch in [(X, Y)]), "a generator is empty after"),
    "endless": (lambda: _fit(_batches().batch(16).repeat()), "must come to an end"),
    "shuffled": (lambda: _fit(_batches().shuffle(60).batch(16)), "same order at each pass"),
    "one-hot": (lambda: _fit((X, np.eye(6)[Y])), "Labels must be of an integer type"),
    "fractional": (lambda: _fit((X, Y + 0.5)), "Labels must be of an integer type"),
    "large labels": (lambda: _fit((X, Y + 1)), r"Labels must lie in \[0, 5\)"),
    "lengths": (lambda: _fit((X, Y[:-1])), "one label per image"),
    "NaN": (lambda: _fit((_with(X, 7, NAN), Y)), "finite images.*image 7"),
    "no images": (lambda: _fit((X[:0], Y[:0])), "at least one image"),
    "image shape": (lambda: _fit((X[:, :4], Y)), r"images of shape \(8, 8, 3\)"),
    "teacher": (lambda: _fit(teacher="teacher.keras"), "`teacher` must be a functional"),
    "teacher without maps": (lambda: _fit(teacher=_classifier()), "feature map"),
}
OTHERS = {
    "network": (lambda: build("resnet21"), r"`name` must be one of .*Did you mean"),
    "classes": (lambda: build("resnet8", num_classes=0), "`num_classes` must be"),
    "input shape": (lambda: build("resnet8", input_shape=(32, 32)), "`input_shape` must be"),
    "source": (lambda: DataSpec("digitz"), r"`data` must be digits, .*Did you mean digits"),
    "fraction": (lambda: DataSpec("digits", validation_fraction=NAN), "`validation_fraction` mu"),
    "image size": (lambda: DataSpec("digits", image_size=True), "`image_size` must be an integer"),
    "pixels": (lambda: DataSpec("digits", pixels="raw"), "`pixels` must be one of"),
    "std": (lambda: _images(std=(1, 0, 1)), "`std` must be"),
    "mean": (lambda: _images(mean=(NAN, 0, 0)), "`mean` must be"),
    "labels": (lambda: _images(y_test=np.array([0, 2])), "`y_test` must be from 0 to 1"),
    "images": (lambda: _images(x_test=np.zeros((2, 8, 8, 3))), "`x_test` must be"),
    "policies": (
        lambda: training_batches(
            np.zeros((60, 8, 8, 1), "uint8"), Y, 8, mean=(0,), std=(1,), policies=["randaugment"]
        ),
        "`policies` can have randaugment only for images of three channels.*with 1",
    ),
    "prototypes": (lambda: lk.Prototypes.load("missing.npz"), "No prototypes at missing.npz"),
    "kd layer": (lambda: lk.insert_kd_layers(STUDENT, "x"), "`penultimate` must be a KDLayer"),
    "quantized student": (
        lambda: lk.insert_kd_layers(_quantized(), lk.KDLayer(4), penultimate_layer="conv"),
        "must have float weights: .* Received: 'logits', quantized to int8",
    ),
    "lossy configuration": (
        lambda: lk.insert_kd_layers(
            _classifier(_Forgetful(scale=2.0, name="own")), lk.KDLayer(4), penultimate_layer="own"
        ),
        r"The layer 'own' of 'other' must be made again .* with scale=1\.0 in place of 2\.0$",
    ),
    "equal names": (
        lambda: lk.cost_of(_classifier(_classifier(classes=9, name="head"), name="head")),
        r"must have layers of different names: .*get_layer\('head'\)\.name = 'other_head'`",
    ),
    "cost": (lambda: lk.cost_of("student.keras"), "`model` must be a functional"),
    "cost of a distiller": (
        lambda: lk.cost_of(lk.KD(TEACHER, STUDENT)),
        r"`model` must be a functional.*; give `model\.student`$",
    ),
}
GROUPS = {
    "KDLayer": KD_LAYER,
    "targets": TARGETS,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "distillers": DISTILLERS,
    "fit": FIT,
    "fit_prototypes": FIT_PROTOTYPES,
    "others": OTHERS,
}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        pytest.param(*case, id=f"{group}: {name}")
        for group, cases in GROUPS.items()
        for name, case in cases.items()
    ],
)
def test_a_wrong_argument_is_one_clear_error(call, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=sentence):
        call()
    assert not any(tmp_path.iterdir())


def test_the_page_has_their_number():
    page = Path(__file__).parents[2] / "docs" / "reliability.md"
    number = sum(map(len, GROUPS.values()))
    assert f"`tests/campaign/{Path(__file__).name}` | {number} |" in page.read_text()
