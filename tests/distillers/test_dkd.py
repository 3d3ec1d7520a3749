import keras
import numpy as np
import pytest
from scipy.special import softmax

from letkd_keras.distillers import DKD
from letkd_keras.distillers.dkd import DecoupledKLDivergence
from letkd_keras.distillers.soft_labels import SoftLabelKLDivergence


def _logits(seed):
    return 3 * np.random.default_rng(seed).standard_normal((6, 10)).astype("float32")


LABELS = np.array([0, 3, 9, 3, 5, 7])
ONE_HOT = np.eye(10, dtype="float32")[LABELS]


def _naive(teacher, student, label, temperature):
    """TCKD and NCKD of an image, in probabilities as the paper writes them."""
    p, q = (softmax(v.astype("float64") / temperature) for v in (teacher, student))
    others = np.arange(10) != label
    tckd = p[label] * np.log(p[label] / q[label])
    tckd += (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
    p_others, q_others = p[others] / p[others].sum(), q[others] / q[others].sum()
    return tckd, (p_others * np.log(p_others / q_others)).sum()


def test_it_is_the_papers_sum_of_both_parts():
    value = DecoupledKLDivergence(0.5, 6.0, 4.0, reduction=None)((_logits(0), ONE_HOT), _logits(1))
    for i, label in enumerate(LABELS):
        tckd, nckd = _naive(_logits(0)[i], _logits(1)[i], label, 4.0)
        assert float(value[i]) == pytest.approx(16 * (0.5 * tckd + 6 * nckd), rel=1e-4)


def test_with_the_teachers_doubt_as_beta_it_is_hintons_loss():
    teacher, student = _logits(0)[:1], _logits(1)[:1]
    doubt = 1 - softmax(teacher.astype("float64") / 4)[0, LABELS[0]]
    decoupled = DecoupledKLDivergence(1.0, doubt, 4.0)((teacher, ONE_HOT[:1]), student)
    assert float(decoupled) == pytest.approx(
        float(SoftLabelKLDivergence(4.0)(teacher, student)), rel=1e-5
    )


def test_the_non_target_part_does_not_see_the_target_logit():
    loss = DecoupledKLDivergence(0.0, 1.0, reduction=None)
    moved = _logits(1) + 5 * ONE_HOT
    value = loss((_logits(0), ONE_HOT), _logits(1))
    np.testing.assert_allclose(value, loss((_logits(0), ONE_HOT), moved), rtol=1e-5)
    assert not np.allclose(value, loss((_logits(0), ONE_HOT), _logits(1) + 5 * ONE_HOT[::-1]))


def test_a_teacher_that_is_sure_gives_finite_values_and_gradients():
    import tensorflow as tf

    student = tf.constant(1e4 * _logits(1))
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = DecoupledKLDivergence()((1e4 * _logits(0), ONE_HOT), student)
    assert np.isfinite(value) and np.isfinite(tape.gradient(value, student)).all()
    same = DecoupledKLDivergence(reduction=None)((_logits(0), ONE_HOT), _logits(0))
    np.testing.assert_allclose(same, np.zeros(6), atol=1e-5)


def _compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    return model


def test_the_weight_grows_with_the_steps(setting):
    model = _compiled(DKD(setting.student(), setting.teacher, warm_up_steps=4))
    for step in range(6):
        model.reset_metrics()
        logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
        total = logs["task_loss"] + min((step + 1) / 4, 1) * logs["dkd"]
        assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_labels_may_be_integers_columns_or_distributions(setting):
    losses = []
    for labels in (setting.y, setting.y[:, None], keras.utils.to_categorical(setting.y, 3)):
        model = DKD(setting.student(), setting.teacher)
        taught = model.teach(setting.x, keras.ops.convert_to_tensor(labels))
        losses.append(float(model.distillation_losses(model.learn(setting.x), taught)["dkd"]))
    assert losses[0] == losses[1] == losses[2]


def test_saved_and_loaded_it_trains_on(tmp_path, setting):
    model = DKD(setting.student(), setting.teacher, 0.5, 2.0, 3.0, warm_up_steps=7)
    model = _compiled(model)
    model.train_on_batch(setting.x, setting.y)
    model.save(tmp_path / "dkd.keras")
    loaded = keras.models.load_model(tmp_path / "dkd.keras")
    assert loaded.get_config()["warm_up_steps"] == 7
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    logs = [m.train_on_batch(setting.x, setting.y, return_dict=True) for m in (model, loaded)]
    for name in ("dkd", "loss", "task_loss"):
        assert float(logs[0][name]) == pytest.approx(float(logs[1][name]), rel=1e-5)
