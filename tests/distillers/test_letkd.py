import zipfile

import h5py
import keras
import numpy as np
import pytest
from letkd_steps import LOSSES, compiled, letkd, step
from registered_name import has_registered_name

from letkd_keras import (
    KDLayer,
    LetKD,
    Prototypes,
    fit_prototypes,
    insert_kd_layers,
    models,
)
from letkd_keras.distillers.letkd import _levels_of
from letkd_keras.functional import fingerprint
from letkd_keras.optimizers import TorchSGD


def _equal(first, second):
    assert first.keys() == second.keys()
    for path, value in first.items():
        np.testing.assert_array_equal(value, second[path], err_msg=path)


# The contract of names


def test_the_whole_story_with_networks_of_the_zoo(tmp_path):
    r = np.random.default_rng(0)
    x, y = r.standard_normal((16, 32, 32, 3)).astype("float32"), np.arange(16) % 4
    teacher = models.build("resnet8", num_classes=4, input_shape=(32, 32, 3))
    student = models.build("resnet8", num_classes=4)
    prototypes = fit_prototypes(
        teacher, (x, y), templates=16, subclasses=2, components=60, seed=0, iterations=2
    )
    prototypes.save(tmp_path / "prototypes.npz")
    prototypes = Prototypes.load(tmp_path / "prototypes.npz")
    model = compiled(LetKD(teacher, student, prototypes), run_eagerly=False)
    history = model.fit(x, y, validation_data=(x, y), batch_size=8, epochs=2, verbose=0).history
    validation = ["val_accuracy", "val_loss"]
    assert sorted(history) == sorted([*LOSSES, "accuracy", *validation])
    assert np.isfinite(list(history.values())).all()
    model.student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, batch_size=32, verbose=0)
    )
    assert [layer.name for layer in loaded.layers if isinstance(layer, KDLayer)] == [
        "kd_intermediate",
        "kd_penultimate",
    ]


def test_the_defaults_are_those_of_the_paper(setting):
    model = LetKD(setting.teacher, setting.student(), setting.prototypes)
    assert model.levels == ("penultimate", "intermediate")
    assert model.distillation_weights == {"kl_penultimate": 1, "kl_intermediate": 1}
    assert (model.task_weight, model.temperature) == (1, 1)
    layers = [model.student.get_layer(f"kd_{level}") for level in model.levels]
    assert [layer.alpha for layer in layers] == [1, 1]
    assert [float(layer.template_scale) for layer in layers] == [3, 3]
    assert [float(layer.value_scale) for layer in layers] == [1, 1]


# A step


def test_each_loss_is_what_its_name_says(setting):
    model = compiled(
        letkd(setting, penultimate_weight=0.5, intermediate_weight=2.0, task_weight=0.3)
    )
    teacher_outputs = model.compute_teacher_outputs(setting.x, setting.y)
    # On a copy, whose statistics may move: what the student alone gives in training mode.
    copy = keras.models.clone_model(model.student)
    copy.set_weights(model.student.get_weights())
    logits = copy(setting.x, training=True)
    logs = step(model, setting)
    expected = keras.losses.sparse_categorical_crossentropy(setting.y, logits, from_logits=True)
    assert logs["task_loss"] == pytest.approx(float(np.mean(expected)), rel=1e-5)

    for level in ("penultimate", "intermediate"):
        features = keras.Model(copy.inputs, copy.get_layer(level).output)
        copy.set_weights(_start(setting))
        scores = copy.get_layer(f"kd_{level}").scores(features(setting.x, training=True))
        p = np.asarray(teacher_outputs[level][0], "float64")
        q = np.asarray(keras.ops.log_softmax(scores), "float64")
        kl = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - q), 0).sum(-1).mean()
        assert logs[f"kl_{level}"] == pytest.approx(kl, rel=1e-4)
    total = 0.3 * logs["task_loss"] + 0.5 * logs["kl_penultimate"] + 2 * logs["kl_intermediate"]
    assert logs["loss"] == pytest.approx(total, rel=1e-5)


def _start(setting):
    return letkd(setting).student.get_weights()


def test_teacher_and_student_run_once_a_step_and_the_teacher_not_in_evaluation(setting):
    model = compiled(letkd(setting), run_eagerly=False)
    counters = [m.get_layer("count_runs") for m in (model.student, setting.teacher)]
    start = [counter.runs for counter in counters]
    runs = lambda: [c.runs - s for c, s in zip(counters, start, strict=True)]  # noqa: E731
    model.fit(setting.x, setting.y, batch_size=4, epochs=2, verbose=0)
    assert runs() == [6, 6]
    model.evaluate(setting.x, setting.y, batch_size=4, verbose=0)
    assert runs() == [9, 6]


def test_batch_statistics_move_once_a_step(setting):
    model = compiled(letkd(setting))
    bn = model.student.get_layer("kd_penultimate").batch_normalization
    layer = model.student.get_layer("kd_penultimate")
    features = keras.Model(model.student.inputs, model.student.get_layer("penultimate").output)
    weights = model.student.get_weights()
    mean = np.mean(layer.scores(features(setting.x, training=True)), axis=(0, 1, 2))
    model.student.set_weights(weights)
    step(model, setting)
    np.testing.assert_allclose(bn.moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_the_teacher_is_neither_trained_nor_part_of_the_model(setting, state_of):
    model = compiled(letkd(setting))
    teachers = {id(w) for w in setting.teacher.weights}
    before = [w.numpy().copy() for w in setting.teacher.weights]
    model.fit(setting.x, setting.y, batch_size=4, epochs=2, verbose=0)
    for old, new in zip(before, setting.teacher.weights, strict=True):
        np.testing.assert_array_equal(old, new.numpy())
    assert not teachers & {id(w) for w in (*model.weights, *model.variables)}
    assert len(model.weights) == len(model.student.weights)
    assert len(model.trainable_weights) == len(model.student.trainable_weights)
    assert model.count_params() == model.student.count_params()


def test_the_given_student_is_left_as_it_was(setting):
    student = setting.student()
    before = fingerprint(student)
    model = compiled(letkd(setting, student))
    np.testing.assert_array_equal(model.student.get_layer("conv1").kernel, student.weights[0])
    step(model, setting)
    assert fingerprint(student) == before
    assert not [layer for layer in student.layers if isinstance(layer, KDLayer)]


def test_every_trainable_weight_of_the_student_learns(setting):
    model = compiled(letkd(setting))
    before = {w.path: w.numpy().copy() for w in model.trainable_weights}
    for _ in range(2):
        step(model, setting)
    still = [w.path for w in model.trainable_weights if np.array_equal(before[w.path], w.numpy())]
    assert still == []


def test_images_of_weight_zero_are_absent_from_all_losses(setting, state_of):
    weights = np.array([1.0] * 8 + [0.0] * 4, "float32")
    other_labels = np.concatenate([setting.y[:8], (setting.y[8:] + 1) % 3])
    models_ = [compiled(letkd(setting)) for _ in range(3)]
    logs = [
        step(models_[0], setting, setting.y, weights),
        step(models_[1], setting, other_labels, weights),
        step(models_[2], setting, other_labels),
    ]
    assert [logs[0][name] for name in LOSSES] == [logs[1][name] for name in LOSSES]
    states = [[w.numpy() for w in model.trainable_weights] for model in models_]
    for first, second in zip(states[0], states[1], strict=True):
        np.testing.assert_array_equal(first, second)
    for name in ("task_loss", "kl_intermediate"):
        assert abs(logs[2][name] - logs[1][name]) > 1e-3

    doubled = step(compiled(letkd(setting)), setting, setting.y, np.full(12, 2, "float32"))
    plain = step(compiled(letkd(setting)), setting)
    for name in LOSSES:
        assert doubled[name] == pytest.approx(2 * plain[name], rel=1e-5)


@pytest.mark.parametrize("level", ["penultimate", "intermediate"])
@pytest.mark.parametrize("option", ["weight", "alpha"])
def test_a_negative_number_is_refused_by_the_name_of_the_argument(setting, level, option):
    name = f"{level}_{option}"
    with pytest.raises(ValueError, match=rf"^`{name}` must be .* of at least 0.* {name}=-1$"):
        letkd(setting, **{name: -1})


def test_regularizers_and_metrics_count(setting):
    student = setting.student(l2=0.1)
    model = compiled(
        letkd(setting, student),
        metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="ce"), "acc"],
    )
    penalty = 0.1 * float(np.sum(np.square(student.get_layer("fc").kernel)))
    logs = step(model, setting)
    assert logs["task_loss"] == pytest.approx(logs["ce"], rel=1e-5)
    others = logs["task_loss"] + logs["kl_penultimate"] + logs["kl_intermediate"]
    assert logs["loss"] - others == pytest.approx(penalty, rel=1e-4)
    assert 0 <= logs["acc"] <= 1
    logs = model.evaluate(setting.x, setting.y, verbose=0, return_dict=True)
    assert sorted(logs) == ["acc", "ce", "loss"]


def test_mixed_labels_train(setting):
    model = letkd(setting)
    model.compile(
        TorchSGD(0.05), keras.losses.CategoricalCrossentropy(from_logits=True), run_eagerly=True
    )
    mixed = (0.8 * np.eye(3)[setting.y] + 0.2 * np.eye(3)[setting.y[::-1]]).astype("float32")
    hard = step(compiled(letkd(setting)), setting)
    logs = step(model, setting, mixed)
    assert logs["kl_intermediate"] == pytest.approx(hard["kl_intermediate"], rel=1e-5)
    assert logs["task_loss"] != pytest.approx(hard["task_loss"], rel=1e-3)


@pytest.mark.parametrize(("policy", "error"), [("mixed_bfloat16", 0.05), ("mixed_float16", 0.005)])
def test_half_precision_trains(setting, policy, error):
    keras.config.set_dtype_policy(policy)
    try:
        logs = step(compiled(letkd(setting)), setting)
    finally:
        keras.config.set_dtype_policy("float32")
    full = step(compiled(letkd(setting)), setting)
    for name in LOSSES:
        assert logs[name] == pytest.approx(full[name], rel=error)


def test_several_steps_an_execution_are_the_same_steps(setting):
    histories = []
    for steps in (1, 2):
        model = compiled(letkd(setting), run_eagerly=False, steps_per_execution=steps)
        fit = model.fit(setting.x, setting.y, batch_size=4, epochs=1, shuffle=False, verbose=0)
        histories.append((fit.history["loss"][0], *model.get_weights()))
    for one, several in zip(*histories, strict=True):
        np.testing.assert_allclose(several, one, rtol=1e-5, atol=1e-6)


# Evaluation, prediction, saving


def test_images_in_a_dictionary_are_the_images(setting):
    received = []
    for x in (setting.x, {"image": setting.x}):
        model = LetKD(setting.teacher, setting.student(), setting.prototypes)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        logs = model.fit(x, setting.y, shuffle=False, verbose=0).history
        logs["evaluated"] = model.evaluate(x, setting.y, verbose=0)
        received.append({**logs, "predicted": model.predict(x, verbose=0)})
    np.testing.assert_equal(received[0], received[1])


def test_evaluation_and_prediction_change_nothing_and_need_no_teacher(setting, state_of):
    model = compiled(letkd(setting, setting.student()))
    step(model, setting)
    model.teacher_graph = None
    before = state_of(model)
    logs = model.evaluate(setting.x, setting.y, batch_size=4, verbose=0, return_dict=True)
    assert sorted(logs) == ["accuracy", "loss"]
    predicted = model.predict(setting.x, batch_size=12, verbose=0)
    _equal(before, state_of(model))
    np.testing.assert_allclose(predicted, model.student(setting.x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="has no teacher"):
        model.compute_teacher_outputs(setting.x, setting.y)


def test_saved_loaded_and_trained_on_it_is_as_if_never_interrupted(tmp_path, setting, state_of):
    def fit(model):
        model.fit(setting.x, setting.y, batch_size=6, epochs=1, shuffle=False, verbose=0)

    model = compiled(letkd(setting, temperature=0.5, penultimate_weight=0.7), run_eagerly=False)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is LetKD
    assert has_registered_name(loaded)
    assert (loaded.temperature, loaded.distillation_weights) == (0.5, model.distillation_weights)
    np.testing.assert_array_equal(
        loaded.predict(setting.x, verbose=0), model.predict(setting.x, verbose=0)
    )
    fit(model)
    fit(loaded)
    for expected, value in zip(model.student.weights, loaded.student.weights, strict=True):
        np.testing.assert_array_equal(expected.numpy(), value.numpy(), err_msg=expected.path)


def test_what_ships_and_what_is_checkpointed_holds_no_teacher(tmp_path, setting):
    model = compiled(letkd(setting))
    model.student.save(tmp_path / "student.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "student.keras") as archive:
        assert sorted(archive.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]
        assert b"teacher" not in archive.read("config.json")
        archive.extract("model.weights.h5", tmp_path / "student")
    for path in (tmp_path / "student" / "model.weights.h5", tmp_path / "model.weights.h5"):
        with h5py.File(path) as file:
            numbers = _size(file)
        # Optimizer and metrics may keep a few of their own; the teacher has several hundred.
        assert 0 <= numbers - model.student.count_params() < 20


def _size(group):
    return sum(_size(v) if isinstance(v, h5py.Group) else v.size for v in group.values())


# The other methods


def test_the_levels_of_a_student_are_those_of_its_kd_layers(setting):
    student = letkd(setting, levels=("intermediate",)).student
    assert _levels_of(student, None) == ("intermediate",)
    both = letkd(setting).student
    assert _levels_of(both, None) == ("penultimate", "intermediate")
    assert _levels_of(both, ("penultimate",)) == ("penultimate",)


@pytest.mark.parametrize("temperature", [0, -0.5])
def test_temperatures_are_more_than_zero(setting, temperature):
    with pytest.raises(ValueError, match=f"`temperature` must be .*temperature={temperature}"):
        letkd(setting, temperature=temperature)


def test_tracked_losses_are_means_over_images(setting):
    model = letkd(setting)
    name, tracker = next(iter(model.loss_trackers.items()))
    model.track_losses({name: 2.0}, np.zeros((3, 1)))
    model.track_losses({name: 5.0}, np.zeros((1, 1)))
    assert float(tracker.result()) == (3 * 2 + 5) / 4
    tracker.reset_state()
    model.track_losses({name: 2.0}, np.zeros((3, 1)), replicas=2)
    assert float(tracker.result()) == 4


def test_letkd_1_has_one_level(setting):
    model = compiled(letkd(setting, levels=("penultimate",)))
    logs = step(model, setting)
    assert sorted(logs) == ["accuracy", "kl_penultimate", "loss", "task_loss"]
    assert [x.name for x in model.student.layers if isinstance(x, KDLayer)] == ["kd_penultimate"]
    with_both = step(compiled(letkd(setting)), setting)
    assert logs["loss"] == pytest.approx(logs["task_loss"] + logs["kl_penultimate"], rel=1e-6)
    assert with_both["kl_penultimate"] != logs["kl_penultimate"]


def test_the_intermediate_level_alone(setting):
    logs = step(compiled(letkd(setting, levels=("intermediate",))), setting)
    assert sorted(logs) == ["accuracy", "kl_intermediate", "loss", "task_loss"]


def test_quest_leaves_the_students_function_alone(setting):
    student = setting.student()
    model = compiled(letkd(setting, student, levels=("penultimate",), penultimate_alpha=0))
    x = setting.x
    np.testing.assert_array_equal(model.predict(x, verbose=0), student.predict(x, verbose=0))
    conv2 = model.student.get_layer("conv2").kernel
    before = conv2.numpy().copy()
    assert step(model, setting)["kl_penultimate"] > 0
    assert not np.array_equal(before, conv2.numpy())


def test_alphas_reach_their_layers(setting):
    model = letkd(setting, penultimate_alpha=0.1, intermediate_alpha=0.2)
    alphas = [model.student.get_layer(f"kd_{x}").alpha for x in ("penultimate", "intermediate")]
    assert alphas == [0.1, 0.2]


def test_the_initial_scale_reaches_both_layers(setting):
    student = letkd(setting, initial_template_scale=7.0).student
    scales = [student.get_layer(f"kd_{x}").template_scale for x in ("penultimate", "intermediate")]
    assert [float(scale.value) for scale in scales] == [7.0, 7.0]


def test_kd_layers_of_ones_own_are_kept(setting):
    layer = KDLayer(5, alpha=0.3, name="kd_penultimate")
    student = insert_kd_layers(setting.student(), layer)
    model = LetKD(setting.teacher, student, setting.prototypes)
    assert model.student.get_layer("kd_penultimate").alpha == 0.3
    wrong = insert_kd_layers(setting.student(), KDLayer(6, name="kd_penultimate"))
    with pytest.raises(ValueError, match=r"'kd_penultimate' must have .* 5. Received: 6"):
        LetKD(setting.teacher, wrong, setting.prototypes)


def test_a_student_is_copied_only_for_a_kd_layer_that_it_lacks(setting):
    one = letkd(setting, levels=("penultimate",)).student
    both = letkd(setting, one).student
    assert not {id(w) for w in one.weights} & {id(w) for w in both.weights}
    assert letkd(setting, both).student is both
