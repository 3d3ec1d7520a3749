import keras
import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras import KDLayer, insert_kd_layers
from letkd_keras.distillers import FitNet, HintedLetKD, LetKD

# The networks of the setting have one grid; the hint is after their first block.
HINT = {"student_hint_layer": "intermediate", "teacher_hint_layer": "intermediate"}


def _made(setting, **options):
    student = setting.student()
    model = HintedLetKD(setting.teacher, student, setting.prototypes, **HINT, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    return model


def test_it_is_letkd_1_with_the_hint_of_fitnet(setting):
    model = _made(setting, hint_weight=3.0)
    assert model.levels == ("penultimate",)
    weights = _made(setting).distillation_weights
    assert weights == {"kl_penultimate": 1, "hint": 100}  # as letKD-1 and FitNet
    assert [x.name for x in model.student.layers if isinstance(x, KDLayer)] == ["kd_penultimate"]
    student_outputs = model.compute_student_outputs(setting.x)
    teacher_outputs = model.compute_teacher_outputs(setting.x, setting.y)
    assert len(student_outputs["features"]) == 1  # besides those that the KD layer reads
    losses = model.compute_distillation_losses(student_outputs, teacher_outputs)
    assert sorted(losses) == ["hint", "kl_penultimate"]

    alone = LetKD(setting.teacher, model.student, setting.prototypes, levels=("penultimate",))
    expected = alone.compute_distillation_losses(
        alone.compute_student_outputs(setting.x), teacher_outputs
    )["kl_penultimate"]
    assert float(losses["kl_penultimate"]) == pytest.approx(float(expected), rel=1e-5)

    features = [
        keras.Model(m.inputs[0], m.get_layer("intermediate").output)(setting.x, training=training)
        for m, training in ((model.student, True), (setting.teacher, False))
    ]
    regressed = np.asarray(model.regressor(features[0], training=True))
    hint = np.square(regressed - np.asarray(features[1])).mean()
    assert float(losses["hint"]) == pytest.approx(hint, rel=1e-4)

    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    total = logs["task_loss"] + 3 * logs["hint"] + logs["kl_penultimate"]
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_saved_and_loaded_it_trains_on(setting, tmp_path):
    model = _made(setting)
    model.train_on_batch(setting.x, setting.y)
    model.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    assert has_registered_name(loaded)
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    logs = [m.train_on_batch(setting.x, setting.y, return_dict=True) for m in (model, loaded)]
    assert sorted(logs[0]) == sorted(logs[1]) == ["hint", "kl_penultimate", "loss", "task_loss"]
    for name in logs[0]:
        assert float(logs[0][name]) == pytest.approx(float(logs[1][name]), rel=1e-4)


def test_a_negative_weight_of_the_hint_is_refused(setting, staged_networks):
    teacher, student = staged_networks
    with pytest.raises(ValueError, match=r"^`hint_weight` must be .* hint_weight=-1$"):
        HintedLetKD(teacher, student, setting.prototypes_of(teacher), hint_weight=-1)


@pytest.mark.parametrize("layer", ["pool", "fc"])
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_hint_without_a_feature_map_is_refused(setting, role, layer):
    hint = {**HINT, f"{role}_hint_layer": layer}
    expected = rf"`{role}_hint_layer` must .*feature map.*'{layer}' of shape"
    with pytest.raises(ValueError, match=expected):
        HintedLetKD(setting.teacher, setting.student(), setting.prototypes, **hint)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_hint_of_no_layer_is_refused(setting, role):
    hint = {**HINT, f"{role}_hint_layer": "pol"}
    expected = rf"^`{role}_hint_layer` must name a layer .*Received: {role}_hint_layer='pol'\."
    with pytest.raises(ValueError, match=expected):
        HintedLetKD(setting.teacher, setting.student(), setting.prototypes, **hint)


def test_by_default_the_hint_is_fitnets(setting, staged_networks):
    teacher, student = staged_networks
    prototypes = setting.prototypes_of(teacher)
    model = HintedLetKD(teacher, student, prototypes)
    fitnet = FitNet(teacher, student)
    assert (model.student_hint_layer,) == fitnet.student_layers
    assert (model.teacher_hint_layer,) == fitnet.teacher_layers
    assert model.regressor.input_shape == fitnet.regressor.input_shape


def test_without_supervision_it_is_fitnet_on_a_student_with_a_kd_layer(setting, staged_networks):
    teacher, plain = staged_networks
    student = insert_kd_layers(plain, KDLayer(6, name="kd_penultimate"))
    model = FitNet(teacher, student)
    # The KD layer does not move the hint.
    assert model.student_layers == FitNet(teacher, plain).student_layers
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.run_eagerly = True
    value = student.get_layer("kd_penultimate").value_kernel
    before = value.numpy().copy()
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    assert sorted(logs) == ["hint", "loss", "task_loss"]
    assert not np.array_equal(before, value.numpy())
