"""Which teachers, students and prototypes fit each other, and which layers are taken."""

import dataclasses

import keras
import numpy as np
import pytest
from letkd_steps import LOSSES, coarse_student, compiled, letkd, step

from letkd_keras import KDLayer, LetKD, fit_prototypes, quantization_aware, suggest_layers
from letkd_keras.distillers import FitNet


def test_what_does_not_fit_is_refused(setting):
    student, teacher, prototypes = setting.student(), setting.teacher, setting.prototypes
    with pytest.raises(ValueError, match="belong to another teacher"):
        LetKD(setting.student(width=6, seed=9), student, prototypes)
    with pytest.raises(ValueError, match=r"`teacher` and `student` must take .*8, 8.*12, 12"):
        LetKD(teacher, setting.student(size=12), prototypes)
    with pytest.raises(ValueError, match=r"same number of classes.* 3 and student's 4"):
        LetKD(teacher, setting.student(classes=4), prototypes)
    with pytest.raises(ValueError, match=r"`penultimate_layer` must .*'penultimat'.*penultimate"):
        LetKD(teacher, student, prototypes, penultimate_layer="penultimat")
    with pytest.raises(ValueError, match=r"`penultimate_layer` must .*feature map.*'fc'"):
        LetKD(teacher, student, prototypes, penultimate_layer="fc")
    only_one = dataclasses.replace(prototypes, intermediate=None)
    with pytest.raises(ValueError, match=r"`prototypes` have nothing for the intermediate level"):
        LetKD(teacher, student, only_one, levels=("penultimate", "intermediate"))
    for levels in ((), "penultimate", ("penultimat",)):
        with pytest.raises(ValueError, match="`levels` must be"):
            LetKD(teacher, student, prototypes, levels=levels)
    with pytest.raises(ValueError, match="`teacher` is needed"):
        LetKD(None, student, prototypes)
    with pytest.raises(ValueError, match="`prototypes` are needed"):
        LetKD(teacher, student)
    with pytest.raises(ValueError, match="`prototypes` are needed to put KD layers"):
        LetKD(None, student)
    with pytest.raises(ValueError, match="`prototypes` are needed to put KD layers"):
        LetKD(None, student, levels=("penultimate",))
    with pytest.raises(ValueError, match="`prototypes` are needed"):
        LetKD(teacher, LetKD(teacher, student, prototypes).student)
    with pytest.raises(ValueError, match="`student` must be a functional"):
        LetKD(teacher, keras.layers.Dense(3), prototypes)
    with pytest.raises(ValueError, match="`penultimate_alpha` must be"):
        LetKD(teacher, student, prototypes, penultimate_alpha=-1)
    with pytest.raises(ValueError, match="`temperature` must be"):
        LetKD(teacher, student, prototypes, temperature=0)


def test_a_teacher_that_was_trained_since_is_refused_before_the_training(setting):
    teacher = setting.student(width=6, seed=9)
    model = compiled(LetKD(teacher, setting.student(), setting.prototypes_of(teacher)))
    model.fit(setting.x, setting.y, verbose=0)
    teacher.get_layer("fc").bias.assign([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="same one before its weights changed"):
        model.fit(setting.x, setting.y, verbose=0)


def test_the_layers_of_a_teacher_built_again_are_found_whatever_their_names(setting):
    def unnamed():
        inputs = x = keras.Input((8, 8, 3))
        for _ in range(3):
            x = keras.layers.ReLU()(keras.layers.Conv2D(6, 3, padding="same")(x))
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    # As in two processes, the second of which has built another ReLU first.
    keras.backend.clear_session()
    teacher = unnamed()
    keras.backend.clear_session()
    keras.layers.ReLU()(keras.Input((4,)))
    again = unnamed()
    again.set_weights(teacher.get_weights())
    prototypes = fit_prototypes(
        teacher, (setting.x, setting.y), templates=5, levels=("penultimate",), iterations=3
    )
    outputs = {}
    for name, model in (("re_lu_2", teacher), ("re_lu_3", again)):
        distiller = LetKD(model, setting.student(), prototypes)
        assert distiller.teacher_layers == (name,)
        outputs[name] = distiller.compute_teacher_outputs(setting.x, setting.y)
    keras.tree.map_structure(
        np.testing.assert_array_equal, *keras.tree.map_structure(np.asarray, [*outputs.values()])
    )


@pytest.mark.parametrize("known", [True, False])
def test_swapped_models_are_noticed(setting, known):
    """By the teacher's fingerprint, or without one by what only one of the models fits."""
    student, teacher, prototypes = setting.student(), setting.teacher, setting.prototypes
    if not known:
        prototypes = dataclasses.replace(prototypes, manifest={})
    with pytest.raises(ValueError, match=r"`teacher` and `student` are swapped.*student='teacher'"):
        LetKD(student, teacher, prototypes)
    LetKD(teacher, teacher, prototypes)


def test_levels_are_by_default_those_of_the_prototypes(setting, caplog):
    with caplog.at_level("INFO", "letkd_keras"):
        both = letkd(setting)
    assert both.levels == ("penultimate", "intermediate")
    assert (both.penultimate_layer, both.intermediate_layer) == ("penultimate", "intermediate")
    assert caplog.messages == ["KD layers after penultimate, intermediate"]
    only_one = dataclasses.replace(setting.prototypes, intermediate=None)
    one = LetKD(setting.teacher, setting.student(), only_one)
    assert one.levels == ("penultimate",)
    assert (one.penultimate_layer, one.intermediate_layer) == ("penultimate", None)
    assert letkd(setting, levels=["intermediate", "penultimate"]).levels == both.levels


def _unnamed(softmax=False, size=8):
    """A student whose layers have no names that this package knows."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, 2, padding="same", activation="relu", name="a")(inputs)
    y = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="b")(x)
    x = keras.layers.Add(name="first")([x, y])
    y = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="c")(x)
    x = keras.layers.Add(name="second")([x, y])
    x = keras.layers.GlobalAveragePooling2D()(x)
    activation = "softmax" if softmax else None
    return keras.Model(inputs, keras.layers.Dense(3, activation=activation, name="head")(x))


def test_layers_are_suggested_for_any_student(setting):
    model = compiled(LetKD(setting.teacher, _unnamed(), setting.prototypes))
    assert model.penultimate_layer == "second"
    assert model.intermediate_layer == suggest_layers(_unnamed())["intermediate"]
    assert [x.name for x in model.student.layers if isinstance(x, KDLayer)] == [
        "kd_intermediate",
        "kd_penultimate",
    ]
    assert sorted(step(model, setting)) == sorted([*LOSSES, "accuracy"])
    # A student that has its KD layers keeps them, wherever they are.
    again = LetKD(setting.teacher, model.student, setting.prototypes)
    assert again.student is model.student
    assert (again.penultimate_layer, again.intermediate_layer) == (
        model.penultimate_layer,
        model.intermediate_layer,
    )


@pytest.mark.parametrize("synchronized", [True, False])
def test_both_kd_layers_are_synchronized_or_not(setting, synchronized):
    student = letkd(setting, synchronized=synchronized).student
    layers = [layer for layer in student.layers if isinstance(layer, KDLayer)]
    assert [layer.synchronized for layer in layers] == [synchronized] * 2


def test_a_layer_that_a_kd_layer_does_not_follow_is_refused(setting):
    student = letkd(setting).student
    expected = r"^`penultimate_layer` must be 'penultimate' or None.*penultimate_layer='conv1'$"
    with pytest.raises(ValueError, match=expected):
        letkd(setting, student, penultimate_layer="conv1")
    # Neither fake quantization nor another KD layer hides the layer that was named.
    named = {"penultimate_layer": "penultimate", "intermediate_layer": "penultimate"}
    student = letkd(setting, **named).student
    for copy in (student, quantization_aware(student)):
        model = letkd(setting, copy, **named)
        assert (model.penultimate_layer, model.intermediate_layer) == ("penultimate",) * 2


def test_a_student_of_any_image_size_is_checked_for_the_teachers(setting):
    model = LetKD(setting.teacher, _unnamed(size=None), setting.prototypes)
    assert model.grids == {"penultimate": None, "intermediate": None}
    logs = step(compiled(model), setting)
    assert np.isfinite([logs[name] for name in LOSSES]).all()
    coarse = LetKD(
        setting.teacher, coarse_student(None), setting.prototypes, levels=("penultimate",)
    )
    assert coarse.grids == {"penultimate": (3, 3)}
    assert np.isfinite(step(compiled(coarse), setting)["kl_penultimate"])
    with pytest.raises(ValueError, match=r"must have a fixed image size.*NonexNone"):
        FitNet(setting.teacher, _unnamed(size=None))


def test_targets_that_are_averaged_are_distributions_of_their_own(setting):
    model = LetKD(
        setting.teacher, coarse_student(), setting.prototypes, levels=("penultimate",), block_size=4
    )
    assert model.grids == {"penultimate": (3, 3)}
    features = model.teacher_graph(setting.x, training=False)["features"][0]
    targets, negentropy = (
        np.asarray(each, "float64") for each in model.targets("penultimate", features, setting.y)
    )
    assert targets.shape == (12, 3, 3, 5)
    np.testing.assert_allclose(targets.sum(axis=-1), 1, rtol=1e-5)
    expected = np.where(targets > 0, targets * np.log(np.maximum(targets, 1e-300)), 0).sum(axis=-1)
    np.testing.assert_allclose(negentropy, expected, rtol=1e-4, atol=1e-5)
    again = LetKD.from_config(model.get_config())
    assert (again.grids, again.block_size) == (model.grids, 4)


def test_without_a_second_block_the_level_must_be_left_out(setting):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, 2, padding="same", activation="relu", name="only")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    student = keras.Model(inputs, keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match=r"`intermediate_layer` must .*levels=\('penultimate',"):
        LetKD(setting.teacher, student, setting.prototypes)
    assert letkd(setting, student, levels=("penultimate",)).penultimate_layer == "only"


def test_a_softmax_of_either_model_is_removed(setting, tmp_path):
    x, y = setting.x, setting.y
    source = setting.teacher
    softmax = keras.layers.Softmax(name="probabilities")(source.outputs[0])
    teacher = keras.Model(source.inputs, softmax, name="teacher")
    student = _unnamed(softmax=True)
    model = compiled(LetKD(teacher, student, setting.prototypes))
    plain = compiled(LetKD(source, keras.models.clone_model(_unnamed()), setting.prototypes))
    for layer in model.student.layers:
        if layer.name in {other.name for other in plain.student.layers}:
            plain.student.get_layer(layer.name).set_weights(layer.get_weights())
    head = model.student.layers[-1].get_weights()
    plain.student.layers[-1].set_weights(head)
    np.testing.assert_array_equal(head[0], student.get_layer("head").kernel)
    logs = [step(m, setting) for m in (model, plain)]
    for name in LOSSES:
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-4), name
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.compute_teacher_outputs(x, y)["logits"], source(x), rtol=1e-4, atol=1e-5
    )


def test_a_student_whose_kd_layers_are_in_a_model_inside_keeps_them(setting):
    inner = LetKD(setting.teacher, setting.student(), setting.prototypes).student
    inputs = keras.Input(inner.input_shape[1:])
    outer = keras.Model(inputs, inner(keras.layers.Rescaling(1.0)(inputs)))
    model = LetKD(setting.teacher, outer, setting.prototypes)
    kd_layer = inner.get_layer("kd_penultimate")
    assert model.student.get_layer("kd_penultimate") is kd_layer
