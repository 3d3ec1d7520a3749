import keras
import numpy as np
import pytest
from registered_name import has_registered_name
from scipy.special import log_softmax

from letkd_keras import KD


def _naive(teacher, student, temperature):
    p, q = (log_softmax(v.astype("float64") / temperature, axis=-1) for v in (teacher, student))
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1)


def _compiled(model):
    model.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    return model


def test_a_step_weighs_and_names_both_losses(setting):
    model = _compiled(
        KD(setting.teacher, setting.student(), temperature=2.0, weight=0.7, task_weight=0.2)
    )
    copy = setting.student()
    logits = copy(setting.x, training=True)
    teacher_logits = setting.teacher(setting.x, training=False)
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    assert sorted(logs) == ["accuracy", "kd", "loss", "task_loss"]
    expected = _naive(np.asarray(teacher_logits), np.asarray(logits), 2.0).mean()
    assert float(logs["kd"]) == pytest.approx(expected, rel=1e-4)
    total = 0.2 * logs["task_loss"] + 0.7 * logs["kd"]
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_the_defaults_are_those_of_the_published_comparison(setting):
    config = KD(setting.teacher, setting.student()).get_config()
    assert [config[name] for name in ("temperature", "weight", "task_weight")] == [4.0, 0.9, 0.1]


def test_the_student_given_is_trained_and_the_teacher_is_not(setting):
    student = setting.student()
    model = _compiled(KD(setting.teacher, student))
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


def test_a_softmax_of_the_student_is_removed_and_its_other_layers_are_trained(setting):
    source = setting.student()
    head = keras.layers.Dense(3, activation="softmax", name="head")
    student = keras.Model(source.inputs, head(source.get_layer("pool").output))
    model = _compiled(KD(setting.teacher, student))
    probabilities = np.asarray(student(setting.x))
    np.testing.assert_allclose(
        keras.ops.softmax(model.student(setting.x)), probabilities, rtol=1e-5, atol=1e-6
    )
    before = source.get_layer("conv1").kernel.numpy().copy()
    model.train_on_batch(setting.x, setting.y)
    assert not np.array_equal(before, source.get_layer("conv1").kernel)


def test_images_of_weight_zero_are_absent(setting):
    weights = np.array([1.0] * 8 + [0.0] * 4, "float32")
    labels = np.concatenate([setting.y[:8], (setting.y[8:] + 1) % 3])
    logs = [
        _compiled(KD(setting.teacher, setting.student())).train_on_batch(
            setting.x, y, weights, return_dict=True
        )
        for y in (setting.y, labels)
    ]
    for name in ("kd", "loss", "task_loss"):
        assert float(logs[0][name]) == float(logs[1][name])


def test_saved_and_loaded_it_trains_on(tmp_path, setting):
    model = _compiled(KD(setting.teacher, setting.student(), temperature=3.0, weight=0.5))
    model.train_on_batch(setting.x, setting.y)
    model.save(tmp_path / "kd.keras")
    loaded = keras.models.load_model(tmp_path / "kd.keras")
    assert has_registered_name(loaded)
    assert (loaded.logit_losses["kd"].temperature, loaded.distillation_weights) == (
        3.0,
        {"kd": 0.5},
    )
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    logs = [m.train_on_batch(setting.x, setting.y, return_dict=True) for m in (model, loaded)]
    for name in ("kd", "loss", "task_loss"):
        assert float(logs[0][name]) == pytest.approx(float(logs[1][name]), rel=1e-5)


def test_a_teacher_with_layers_of_ones_own_is_loaded_in_a_scope(tmp_path, setting):
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    logits = Twice()(setting.teacher.output)
    teacher = keras.Model(setting.teacher.inputs, logits)
    KD(teacher, setting.student()).save(tmp_path / "kd.keras")
    own = {"Twice": Twice}
    with pytest.raises(
        ValueError, match=r"the distiller within keras\.saving\.custom_object_scope"
    ):
        keras.models.load_model(tmp_path / "kd.keras", custom_objects=own)
    with keras.saving.custom_object_scope(own):
        loaded = keras.models.load_model(tmp_path / "kd.keras")
    assert type(loaded.teacher_graph.model.layers[-1]) is Twice


def test_what_cannot_be_distilled_is_refused(setting):
    with pytest.raises(ValueError, match=r"same number of classes.* 3 and student's 4"):
        KD(setting.teacher, setting.student(classes=4))
    with pytest.raises(
        ValueError, match=r"`temperature` must be a finite number greater than 0.*temperature=0"
    ):
        KD(setting.teacher, setting.student(), temperature=0)
    with pytest.raises(ValueError, match=r"^`weight` must be .* of at least 0.* weight=-1$"):
        KD(setting.teacher, setting.student(), weight=-1)
    with pytest.raises(ValueError, match="`teacher` must be a functional"):
        KD(keras.Sequential([keras.layers.Dense(3)]), setting.student())
    with pytest.raises(ValueError, match="has no teacher"):
        KD(None, setting.student()).compute_teacher_outputs(setting.x, setting.y)


def test_a_teacher_whose_weights_were_changed_teaches_with_the_new_ones(setting):
    """On JAX the compiled step has the teacher's weights as constants."""
    teacher = keras.models.clone_model(setting.teacher)
    teacher.set_weights(setting.teacher.get_weights())
    model = KD(teacher, setting.student(), weight=1.0, task_weight=0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)

    def kd():
        return model.fit(setting.x, setting.y, batch_size=12, verbose=0).history["kd"][0]

    first, again = kd(), kd()
    assert again == pytest.approx(first)
    head = teacher.get_layer("fc")
    head.set_weights([3 * weight for weight in head.get_weights()])
    assert kd() != pytest.approx(first, rel=0.1)
