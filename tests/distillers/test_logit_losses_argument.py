import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.distillation import LogitsDistillation
from scipy.special import log_softmax

from letkd_keras.distillers import (
    AT,
    CRD,
    DKD,
    KD,
    SP,
    VID,
    Distiller,
    FitNet,
    HintedLetKD,
    LetKD,
    SimKD,
)
from letkd_keras.distillers.logit_losses_argument import check, with_own
from letkd_keras.losses import DISTLoss, KDLoss, WTTMLoss, logit_loss

LAYERS = {"student_layers": ("penultimate",), "teacher_layers": ("penultimate",)}
METHODS = {
    "none": lambda t, s, p, y, **o: Distiller(t, s, **o),
    "kd": lambda t, s, p, y, **o: KD(t, s, **o),
    "dkd": lambda t, s, p, y, **o: DKD(t, s, **o),
    "hint": lambda t, s, p, y, **o: FitNet(t, s, **LAYERS, **o),
    "at": lambda t, s, p, y, **o: AT(t, s, **LAYERS, **o),
    "sp": lambda t, s, p, y, **o: SP(t, s, **LAYERS, **o),
    "vid": lambda t, s, p, y, **o: VID(t, s, **LAYERS, **o),
    "simkd": lambda t, s, p, y, **o: SimKD(t, s, **LAYERS, **o),
    "crd": lambda t, s, p, y, **o: CRD(t, s, y, dimension=4, negatives=6, **LAYERS, **o),
    "letkd": lambda t, s, p, y, **o: LetKD(t, s, p, **o),
    "hinted": lambda t, s, p, y, **o: HintedLetKD(
        t, s, p, student_hint_layer="intermediate", teacher_hint_layer="intermediate", **o
    ),
}


def _made(name, setting, **options):
    keras.utils.set_random_seed(0)
    model = METHODS[name](
        setting.teacher, setting.student(), setting.prototypes, setting.y, **options
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    return model


def _step(model, setting, labels=None, weights=None):
    x, y = setting.x, setting.y if labels is None else labels
    if isinstance(model, CRD):
        x = {"image": x, "row": np.arange(len(y), dtype="int32")}
    logs = model.train_on_batch(x, y, weights, return_dict=True)
    return {name: float(value) for name, value in logs.items()}


def _kl(teacher, student, temperature):
    p, q = (
        log_softmax(np.asarray(v, "float64") / temperature, axis=-1) for v in (teacher, student)
    )
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1)


@pytest.mark.parametrize("name", METHODS)
def test_any_method_takes_them_and_saves_them(name, setting, tmp_path):
    added = {"first": (KDLoss(2.0), 0.5), "second": (logit_loss("wttm"), 2.0)}
    model = _made(name, setting, logit_losses=added, warm_up_steps=4)
    logits = model.compute_student_outputs({"image": setting.x} if name == "crd" else setting.x)[
        "logits"
    ]
    logs = _step(model, setting)
    teacher = setting.teacher(setting.x, training=False)
    assert logs["first"] == pytest.approx(_kl(teacher, logits, 2.0).mean(), rel=1e-4)
    total = model.task_weight * logs["task_loss"]
    for loss, weight in model.distillation_weights.items():
        total += weight * logs[loss] * (0.25 if loss in model.logit_losses else 1)
    assert logs["loss"] == pytest.approx(total, rel=1e-4)

    model.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    assert [type(loaded.logit_losses[x]) for x in added] == [KDLoss, WTTMLoss]
    assert loaded.logit_losses["first"].temperature == 2.0
    assert loaded.distillation_weights == model.distillation_weights
    assert loaded.warm_up_steps == 4
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    again, expected = _step(loaded, setting), _step(model, setting)
    for loss in ("first", "second", "task_loss"):
        assert again[loss] == pytest.approx(expected[loss], rel=1e-4)


def test_their_weights_grow_with_the_steps_and_the_methods_own_do_not(setting):
    model = _made("letkd", setting, logit_losses={"kd": (KDLoss(), 0.5)}, warm_up_steps=4)
    for step in range(6):
        model.reset_metrics()
        logs = _step(model, setting)
        total = logs["task_loss"] + logs["kl_penultimate"] + logs["kl_intermediate"]
        total += 0.5 * min((step + 1) / 4, 1) * logs["kd"]
        assert logs["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("loss", [KDLoss(), logit_loss("dkd"), DISTLoss(), LogitsDistillation(2.0)])
def test_images_of_weight_zero_are_absent(setting, loss):
    weights = np.array([1.0] * 8 + [0.0] * 4, "float32")
    model = _made("letkd", setting, logit_losses={"added": (loss, 1.0)})
    loss = model.logit_losses["added"]
    r = np.random.default_rng(0)
    teacher, student, labels = r.normal(size=(12, 3)), r.normal(size=(12, 3)), setting.y.copy()
    first = loss((teacher, labels), student, weights)
    teacher[8:], student[8:], labels[8:] = r.normal(size=(4, 3)), r.normal(size=(4, 3)), 0
    assert float(loss((teacher, labels), student, weights)) == pytest.approx(float(first))
    logs = _step(model, setting, weights=weights)
    doubled = _step(
        _made("letkd", setting, logit_losses={"added": (loss, 1.0)}), setting, weights=2 * weights
    )
    assert doubled["added"] == pytest.approx(2 * logs["added"], rel=1e-5)


def test_mixed_labels_count_by_their_largest_entry(setting):
    mixed = (0.8 * np.eye(3)[setting.y] + 0.2 * np.eye(3)[setting.y[::-1]]).astype("float32")
    logs = []
    for labels, kind in (
        (setting.y, keras.losses.SparseCategoricalCrossentropy),
        (mixed, keras.losses.CategoricalCrossentropy),
    ):
        model = _made("letkd", setting, logit_losses={"dkd": (logit_loss("dkd"), 1.0)})
        model.compile("sgd", kind(from_logits=True), run_eagerly=True)
        logs.append(_step(model, setting, labels))
    assert logs[1]["dkd"] == pytest.approx(logs[0]["dkd"], rel=1e-5)


@pytest.mark.parametrize("inner", ["kl_divergence", keras.losses.KLDivergence()])
def test_keras_logits_distillation_is_its_documented_kl(setting, inner):
    model = _made("letkd", setting, logit_losses={"keras": (LogitsDistillation(3.0, inner), 0.7)})
    logits = model.compute_student_outputs(setting.x)["logits"]
    teacher = setting.teacher(setting.x, training=False)
    logs = _step(model, setting)
    assert logs["keras"] == pytest.approx(_kl(teacher, logits, 3.0).mean(), rel=1e-3)
    keras_own = LogitsDistillation(3.0, keras.losses.KLDivergence())
    assert logs["keras"] == pytest.approx(float(keras_own.compute_loss(teacher, logits)), rel=1e-4)


@pytest.mark.parametrize(
    "inner", ["mse", keras.losses.CategoricalCrossentropy(from_logits=True), "kl_divergence"]
)
def test_keras_logits_distillation_is_saved_with_its_inner_loss(setting, inner, tmp_path):
    model = _made("kd", setting, logit_losses={"keras": (LogitsDistillation(3.0, inner), 0.7)})
    loss = model.logit_losses["keras"]
    assert loss.temperature == 3.0 and loss.loss is keras.losses.get(inner)
    _step(model, setting)
    model.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    value, expected = (_step(m, setting)["keras"] for m in (loaded, model))
    assert value == pytest.approx(expected, rel=1e-4)


def test_what_is_no_logit_loss_is_refused(setting):
    for losses, message in (
        ({"loss": (KDLoss(), 1.0)}, "must not be loss, task_loss"),
        ({"kl_penultimate": (KDLoss(), 1.0)}, "must not be .*kl_penultimate.*Received"),
        ({"kd": KDLoss()}, r"must be a pair \(loss, weight\)"),
        ({"kd": (KDLoss(),)}, r"must be a pair \(loss, weight\)"),
        ({"kd": ("kl_divergence", 1.0)}, "must be a keras.losses.Loss or a keras.distillation"),
        ({"kd": (keras.losses.KLDivergence(), 1.0)}, "must take `y_true` as .*: KLDivergence"),
        ({"kd": (KDLoss(reduction=None), 1.0)}, "must have a reduction.*reduction=None"),
        ({"kd": (KDLoss(reduction="none"), 1.0)}, "must have a reduction.*reduction='none'"),
        ([KDLoss()], "`logit_losses` must be a dictionary of names"),
        ({1: (KDLoss(), 1.0)}, "`logit_losses` must be a dictionary of names"),
    ):
        with pytest.raises(ValueError, match=message):
            _made("letkd", setting, logit_losses=losses)
    with pytest.raises(ValueError, match=r"must not be kd\. Received: 'kd'"):
        _made("kd", setting, logit_losses={"kd": (KDLoss(), 1.0)})


def test_a_methods_own_loss_is_the_first_and_is_checked_by_its_own_name():
    own, other = KDLoss(), KDLoss(2.0)
    losses = with_own("kd", own, 3, {"more": (other, 1.0)})
    assert list(losses.items()) == [("kd", (own, 3)), ("more", (other, 1.0))]
    with pytest.raises(ValueError, match="`weight` must be a finite number of at least 0"):
        with_own("kd", own, -1, None)
    with pytest.raises(ValueError, match="`logit_losses` must be a dictionary of names"):
        with_own("kd", own, 1, [other])


def test_the_temperature_and_loss_of_keras_distillation_are_kept():
    strategy = LogitsDistillation(temperature=5.0, loss="mse")
    loss = check({"keras": (strategy, 1.0)})[0]["keras"]
    logits, labels = np.float32([[1, -2, 0.5]]), np.array([0])
    teacher = np.float32([[0.5, 1, -1]])
    expected = float(strategy.compute_loss(teacher, logits))
    assert float(loss((teacher, labels), logits)) == pytest.approx(expected)


def test_a_loss_of_keras_that_takes_the_pair_is_used(setting):
    class Softened(keras.losses.KLDivergence):
        def __call__(self, y_true, y_pred, sample_weight=None):
            y_true, y_pred = (keras.ops.softmax(x) for x in (y_true[0], y_pred))
            return super().__call__(y_true, y_pred, sample_weight)

    logs = _step(_made("none", setting, logit_losses={"kl": (Softened(), 1.0)}), setting)
    expected = _step(_made("none", setting, logit_losses={"kl": (KDLoss(1.0), 1.0)}), setting)
    assert logs["kl"] == pytest.approx(expected["kl"], rel=1e-4)


def test_a_distiller_without_prototypes_of_the_intermediate_level_takes_them_too(setting):
    prototypes = dataclasses.replace(setting.prototypes, intermediate=None)
    added = {"dkd-ls": (logit_loss("dkd-ls"), 9.0)}
    model = LetKD(setting.teacher, setting.student(), prototypes, logit_losses=added)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.run_eagerly = True
    assert sorted(_step(model, setting)) == ["dkd-ls", "kl_penultimate", "loss", "task_loss"]


def test_a_loss_of_ones_own_as_documented(setting, tmp_path):
    """The very lines of docs/losses.md: trained, saved and reloaded."""
    page = Path(__file__).parents[2] / "docs" / "losses.md"
    (lines,) = re.findall(
        r"```python\n(.*?)```", page.read_text().split("own loss\n")[1], re.DOTALL
    )
    student, teacher = setting.student(), setting.teacher
    scope = {"teacher": teacher, "student": student, "prototypes": setting.prototypes}
    try:
        exec(lines, scope)
        model = scope["model"]
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.run_eagerly = True
        a, b = model.compute_student_outputs(setting.x)["logits"], teacher(setting.x)
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (np.array(a), np.array(b)))
        assert _step(model, setting)["cosine"] == pytest.approx(1 - (a * b).sum(1).mean(), abs=1e-5)
        model.save(tmp_path / "whole.keras")
        loaded = keras.models.load_model(tmp_path / "whole.keras")
        assert type(loaded.logit_losses["cosine"]) is scope["CosineLoss"]
    finally:
        keras.saving.get_custom_objects().pop("my_project>CosineLoss", None)
