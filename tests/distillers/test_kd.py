import keras
import numpy as np
import pytest
from scipy.special import log_softmax

from letkd_keras import KD
from letkd_keras.distillers.soft_labels import SoftLabelKLDivergence


def _naive(teacher, student, temperature):
    p, q = (log_softmax(v.astype("float64") / temperature, axis=-1) for v in (teacher, student))
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1)


def _logits(seed):
    return 5 * np.random.default_rng(seed).standard_normal((6, 10)).astype("float32")


def _compiled(model):
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    return model


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_soft_label_divergence_is_hintons(temperature):
    loss = SoftLabelKLDivergence(temperature, reduction=None)
    value = loss(_logits(0), _logits(1))
    np.testing.assert_allclose(value, _naive(_logits(0), _logits(1), temperature), rtol=1e-5)
    np.testing.assert_allclose(loss(_logits(0), _logits(0)), np.zeros(6), atol=1e-6)
    assert np.isfinite(loss(1e6 * _logits(0), 1e6 * _logits(1))).all()
    again = SoftLabelKLDivergence.from_config(loss.get_config())
    assert again.get_config() == loss.get_config()


def test_a_step_weighs_and_names_both_losses(setting):
    model = _compiled(KD(setting.student(), setting.teacher, 2.0, kd_weight=0.7, task_weight=0.2))
    copy = setting.student()
    logits = copy(setting.x, training=True)
    taught = setting.teacher(setting.x, training=False)
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    assert sorted(logs) == ["accuracy", "kd", "loss", "task_loss"]
    expected = _naive(np.asarray(taught), np.asarray(logits), 2.0).mean()
    assert float(logs["kd"]) == pytest.approx(expected, rel=1e-4)
    total = 0.2 * logs["task_loss"] + 0.7 * logs["kd"]
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_the_student_given_is_trained_and_the_teacher_is_not(setting):
    student = setting.student()
    model = _compiled(KD(student, setting.teacher))
    before = [[w.numpy().copy() for w in m.weights] for m in (student, setting.teacher)]
    model.fit(setting.x, setting.y, batch_size=6, verbose=0)
    assert model.student is student
    assert len(model.weights) == len(student.weights)
    changed, same = (
        [not np.array_equal(old, new.numpy()) for old, new in zip(saved, m.weights, strict=True)]
        for saved, m in zip(before, (student, setting.teacher), strict=True)
    )
    assert all(changed)
    assert not any(same)


def test_images_of_weight_zero_are_absent(setting):
    weights = np.array([1.0] * 8 + [0.0] * 4, "float32")
    labels = np.concatenate([setting.y[:8], (setting.y[8:] + 1) % 3])
    logs = [
        _compiled(KD(setting.student(), setting.teacher)).train_on_batch(
            setting.x, y, weights, return_dict=True
        )
        for y in (setting.y, labels)
    ]
    for name in ("kd", "loss", "task_loss"):
        assert float(logs[0][name]) == float(logs[1][name])


def test_saved_and_loaded_it_trains_on(tmp_path, setting):
    model = _compiled(KD(setting.student(), setting.teacher, kd_temperature=3.0, kd_weight=0.5))
    model.train_on_batch(setting.x, setting.y)
    model.save(tmp_path / "kd.keras")
    loaded = keras.models.load_model(tmp_path / "kd.keras")
    assert (loaded.soft_label_kl.temperature, loaded.distillation_weights) == (3.0, {"kd": 0.5})
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    logs = [m.train_on_batch(setting.x, setting.y, return_dict=True) for m in (model, loaded)]
    for name in ("kd", "loss", "task_loss"):
        assert float(logs[0][name]) == pytest.approx(float(logs[1][name]), rel=1e-5)


def test_what_cannot_be_distilled_is_refused(setting):
    with pytest.raises(ValueError, match=r"same number of classes.* 4 and 3"):
        KD(setting.student(classes=4), setting.teacher)
    with pytest.raises(ValueError, match=r"`temperature` must be more than 0.*temperature=0"):
        KD(setting.student(), setting.teacher, kd_temperature=0)
    with pytest.raises(ValueError, match="`teacher` must be a functional"):
        KD(setting.student(), keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="has no teacher"):
        KD(setting.student()).teach(setting.x, setting.y)
