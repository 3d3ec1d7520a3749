"""What all methods share that distil logits or the outputs of layers."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from registered_name import has_registered_name

from letkd_keras.distillers import AT, CRD, DKD, KD, SP, VID, FitNet, SimKD
from letkd_keras.losses import logit_loss

LAYERS = {
    "student_layers": ("intermediate", "penultimate"),
    "teacher_layers": ("bn1", "penultimate"),
}
LAST = {"student_layers": ("penultimate",), "teacher_layers": ("penultimate",)}


def _crd(teacher, student, labels, **options):
    return CRD(teacher, student, labels, dimension=4, negatives=6, **LAST, **options)


METHODS = {
    "kd": lambda t, s, y, **o: KD(t, s, **o),
    "dkd": lambda t, s, y, **o: DKD(t, s, **o),
    "hint": lambda t, s, y, **o: FitNet(t, s, **LAST, **o),
    "at": lambda t, s, y, **o: AT(t, s, **LAYERS, **o),
    "sp": lambda t, s, y, **o: SP(t, s, **LAST, **o),
    "vid": lambda t, s, y, **o: VID(t, s, **LAYERS, **o),
    "simkd": lambda t, s, y, **o: SimKD(t, s, **LAST, **o),
    "crd": _crd,
}
LOGITS = {
    "kd": {"temperature": 3.0, "standardize_logits": True},
    "dkd": {"alpha": 0.5, "beta": 2.0, "temperature": 3.0, "standardize_logits": True},
}
# Options of which none has its default.
OPTIONS = {
    **LOGITS,
    "at": {"power": 3},
    "simkd": {"factor": 4},
    "crd": {"momentum": 0.25, "temperature": 0.5},
}


def _made(name, setting, **options):
    model = METHODS[name](setting.teacher, setting.student(), setting.y, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"], run_eagerly=True)
    return model


def _batch(name, setting):
    if name == "crd":
        return {"image": setting.x, "row": np.arange(len(setting.y), dtype="int32")}, setting.y
    return setting.x, setting.y


@pytest.mark.parametrize("name", METHODS)
def test_a_step_trains_student_and_adapters_once_each_and_not_the_teacher(name, setting):
    model = _made(name, setting)
    adapters = len(model.trainable_weights) - len(model.student.trainable_weights)
    # Regressor and BN, two regressors, two maps, nothing beside the student.
    assert adapters == {"hint": 4, "vid": 8, "crd": 4}.get(name, 0)
    moved = list(model.trainable_weights)
    if name == "hint":
        moved += model.regressor.non_trainable_weights  # statistics of the batches
    saved = [w.numpy().copy() for w in moved]
    teacher = [w.numpy().copy() for w in setting.teacher.weights]
    counters = (model.student, setting.teacher)
    runs = [network.get_layer("count_runs").runs for network in counters]
    logs = model.train_on_batch(*_batch(name, setting), return_dict=True)
    assert [n.get_layer("count_runs").runs - r for n, r in zip(counters, runs, strict=True)] == [
        1,
        1,
    ]
    assert sorted(logs) == sorted(["accuracy", "loss", "task_loss", name])
    weight = model.distillation_weights[name]
    total = model.task_weight * logs["task_loss"] + weight * logs[name]
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)
    for old, new in zip(saved, moved, strict=True):
        assert not np.array_equal(old, new), new.path
    for old, new in zip(teacher, setting.teacher.weights, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", LOGITS)
def test_a_loss_on_the_logits_is_that_of_a_step(name, setting):
    model = _made(name, setting, **LOGITS[name])
    pair = setting.teacher(setting.x, training=False), setting.y
    expected = logit_loss(name, **LOGITS[name])(pair, setting.student()(setting.x, training=True))
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    assert float(logs[name]) == pytest.approx(float(expected), rel=1e-4)


def test_weights_and_numbers_are_the_published_ones(setting):
    """Those of RepDistiller's scripts, and of the authors of DKD."""
    features = {"hint": 100, "at": 1000, "sp": 3000, "vid": 1, "simkd": 1, "crd": 0.8}
    expected = {"kd": 0.9, "dkd": 1, **features}
    for name, weight in expected.items():
        model = METHODS[name](setting.teacher, setting.student(), setting.y)
        assert model.distillation_weights == {name: weight}
        assert model.task_weight == {"kd": 0.1, "simkd": 0}.get(name, 1)
    for method, numbers in (
        (KD, {"temperature": 4}),
        (DKD, {"alpha": 1, "beta": 8, "temperature": 4}),
    ):
        config = method(setting.teacher, setting.student()).get_config()
        assert {"standardize_logits": False, **numbers}.items() <= config.items()
    config = CRD(setting.teacher, setting.student(), setting.y, **LAST).get_config()
    numbers = {"dimension": 128, "negatives": 16384, "temperature": 0.07, "momentum": 0.5}
    assert {key: config[key] for key in numbers} == numbers


@pytest.mark.parametrize("name", METHODS)
def test_saved_and_loaded_it_trains_on(name, setting, tmp_path):
    options = dict(OPTIONS.get(name, {}))
    model = _made(name, setting, **options, weight=0.5)
    model.train_on_batch(*_batch(name, setting))
    model.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    assert has_registered_name(loaded)
    # The student's own entry differs in what Keras notes of a build.
    configs = [{**m.get_config(), "student": None} for m in (loaded, model)]
    assert configs[0] == configs[1]
    if name == "crd":
        options |= {"dimension": 4, "negatives": 6}
    assert {**options, "weight": 0.5}.items() <= configs[0].items()
    for actual, expected in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, expected)
    loaded.run_eagerly = True
    logs = []
    for m in (model, loaded):
        m.reset_metrics()
        logs.append(m.train_on_batch(*_batch(name, setting), return_dict=True))
    for key in logs[0]:
        assert float(logs[0][key]) == pytest.approx(float(logs[1][key]), rel=1e-4), key


@pytest.mark.parametrize("name", METHODS)
def test_what_ships_is_the_student_alone(name, setting):
    student, plain = setting.student(), setting.student()
    model = METHODS[name](setting.teacher, student, setting.y)
    if name == "simkd":
        kept = {"conv1", "bn1", "intermediate", "conv2", "bn2", "penultimate", "count_runs"}
        assert kept < {layer.name for layer in model.student.layers}
    else:
        assert model.student is student
        assert [w.path for w in student.weights] == [w.path for w in plain.weights]
    np.testing.assert_allclose(
        *(m.predict(setting.x, verbose=0) for m in (model, model.student)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_falls_when_nothing_else_is_trained(name, setting):
    model = METHODS[name](setting.teacher, setting.student(), setting.y, task_weight=0.0)
    rate = {"hint": 3e-3, "sp": 1e-4, "kd": 0.1, "dkd": 0.03, "crd": 0.1}.get(name, 0.3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss)
    history = model.fit(*_batch(name, setting), batch_size=12, epochs=12, verbose=0).history
    assert history[name][-1] < 0.9 * history[name][0] or (
        history[name][-1] < history[name][0] and name == "vid"
    )


def test_images_of_weight_zero_are_absent(setting):
    """From the mean over the images, as long as they are not compared with each other."""
    weights = np.array([1.0] * 8 + [0.0] * 4, "float32")
    x = setting.x.copy()
    model = AT(setting.teacher, setting.student(), **LAYERS)
    outputs = keras.tree.map_structure(np.array, model.compute_student_outputs(x))
    teacher_outputs = model.compute_teacher_outputs(x, setting.y)
    first = model.compute_distillation_losses(outputs, teacher_outputs, weights)["at"]
    outputs["features"][0][8:] = 7 * outputs["features"][0][8:] + 1
    again = model.compute_distillation_losses(outputs, teacher_outputs, weights)["at"]
    assert float(first) == float(again)
    labels = np.concatenate([setting.y[:8], (setting.y[8:] + 1) % 3])
    logs = [
        _made("dkd", setting).train_on_batch(x, y, weights, return_dict=True)
        for y in (setting.y, labels)
    ]
    for name in ("dkd", "loss", "task_loss"):
        assert float(logs[0][name]) == float(logs[1][name])


def test_layers_that_do_not_fit_are_refused(setting):
    layers = {"student_layers": ("penultimate",), "teacher_layers": ("bn1", "penultimate")}
    with pytest.raises(ValueError, match=r"`student_layers` and `teacher_layers` must be of the"):
        AT(setting.teacher, setting.student(), **layers)
    with pytest.raises(ValueError, match="`student_layers` must name a layer"):
        AT(setting.teacher, setting.student(), student_layers=("conv9",), teacher_layers=("bn1",))


@pytest.mark.parametrize("name", METHODS)
def test_a_negative_weight_is_refused_by_the_name_of_the_argument(setting, name):
    with pytest.raises(ValueError, match=r"^`weight` must be .* of at least 0.* weight=-1$"):
        METHODS[name](setting.teacher, setting.student(), setting.y, weight=-1)


def test_grids_that_do_not_divide_are_averaged(setting):
    layers = {"student_layers": ("cropped",), "teacher_layers": ("penultimate",)}
    source = setting.student()
    x = keras.layers.Cropping2D(((0, 1), (0, 1)), name="cropped")(source.get_layer("bn1").output)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    # The student's grid is 3x3, the teacher's 4x4.
    for method in (FitNet, AT, VID, SimKD):
        model = method(setting.teacher, keras.Model(source.inputs, x), **layers)
        model.compile(
            optimizer="sgd",
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            run_eagerly=True,
        )
        logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
        assert np.isfinite(list(logs.values())).all(), method


def test_crd_takes_mixed_labels(setting):
    losses = []
    for labels, kind in (
        (setting.y, keras.losses.SparseCategoricalCrossentropy),
        (setting.y[:, None], keras.losses.SparseCategoricalCrossentropy),
        (0.9 * np.eye(3)[setting.y] + 0.1 / 3, keras.losses.CategoricalCrossentropy),
    ):
        model = _made("crd", setting)
        drawn = []
        model.sampler.call = lambda y, drawn=drawn: (
            drawn.append(np.asarray(y)) or np.zeros((len(y), 6), "int32")
        )
        model.compile("sgd", kind(from_logits=True), run_eagerly=True)
        x = {"image": setting.x, "row": np.arange(len(setting.y), dtype="int32")}
        losses.append(float(model.train_on_batch(x, labels, return_dict=True)["crd"]))
        np.testing.assert_array_equal(drawn[0], setting.y)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"`labels` must be the classes of all training images.*labels=None"),
        ([], r"`labels` must be the classes of all training images.*labels=\[\]"),
        (np.eye(3, dtype=int)[[0, 1, 2, 1]], r"`labels` must be 4 integers below 3.*\(4, 3\)"),
        (np.array([0.0, 1.0]), r"`labels` must be 2 integers below 3.*type float64"),
        (np.array([0, -1, 1]), r"`labels` must be 3 integers below 3.*from -1 to 1"),
        (np.array([0, 3]), r"`labels` must be 2 integers below 3.*from 0 to 3"),
        (1, r"`labels` must be 1 integers below 3.*shape \(\)"),
    ],
)
def test_crd_refuses_labels_that_are_no_classes(setting, labels, message):
    with pytest.raises(ValueError, match=message):
        CRD(setting.teacher, setting.student(), labels, **LAST)


@pytest.mark.parametrize(
    "option",
    [{"negatives": 0}, {"negatives": 1.5}, {"momentum": 1.0}, {"momentum": "0"}, {"dimension": 0}],
)
def test_crd_refuses_numbers_out_of_range(setting, option):
    (name,) = option
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
        CRD(setting.teacher, setting.student(), setting.y, **option, **LAST)


@pytest.mark.parametrize("eagerly", [True, False])
def test_crd_refuses_images_without_rows(setting, eagerly):
    model = CRD(setting.teacher, setting.student(), setting.y, negatives=3, dimension=4, **LAST)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=eagerly)
    with pytest.raises(ValueError, match=r"`x` must be \{'image': images, 'row': integers"):
        model.fit(setting.x, setting.y, verbose=0)
    with pytest.raises(ValueError, match=r"`x` must be \{'image'.*Received: the keys image"):
        model.fit({"image": setting.x}, setting.y, verbose=0)


def test_crd_evaluates_images_in_a_dictionary_of_any_name(setting):
    model = _made("crd", setting)
    expected = model.predict(setting.x, verbose=0)
    for x in ({"photo": setting.x}, _batch("crd", setting)[0]):
        np.testing.assert_array_equal(model.predict(x, verbose=0), expected)
    assert model.compute_output_shape({"photo": (None, 8, 8, 3)}) == (None, 3)


def test_crd_refuses_several_replicas(setting, monkeypatch):
    model = _made("crd", setting)
    extended = SimpleNamespace(worker_devices=("GPU:0", "GPU:1"))
    strategy = SimpleNamespace(num_replicas_in_sync=2, extended=extended)
    monkeypatch.setattr(keras.Model, "distribute_strategy", strategy)
    with pytest.raises(ValueError, match=r"CRD must be trained on one replica.*of 2 replicas"):
        model.make_train_function()


@pytest.mark.parametrize("name", ["hint", "at", "vid", "simkd"])
def test_a_data_set_need_not_declare_the_size_of_its_images(name, setting):
    signature = tf.TensorSpec((None, None, 3)), tf.TensorSpec((), "int64")
    images = tf.data.Dataset.from_generator(
        lambda: zip(setting.x, setting.y, strict=True), output_signature=signature
    )
    model = _made(name, setting)
    model.run_eagerly = False
    history = model.fit(images.batch(6), verbose=0).history
    assert np.isfinite(history["loss"]).all()
