import keras
import numpy as np
import pytest

from letkd_keras import KD


def test_a_softmax_of_the_student_is_removed_and_its_other_layers_are_trained(setting):
    source = setting.student()
    head = keras.layers.Dense(3, activation="softmax", name="head")
    student = keras.Model(source.inputs, head(source.get_layer("pool").output))
    model = KD(setting.teacher, student)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, run_eagerly=True)
    probabilities = np.asarray(student(setting.x))
    np.testing.assert_allclose(
        keras.ops.softmax(model.student(setting.x)), probabilities, rtol=1e-5, atol=1e-6
    )
    before = source.get_layer("conv1").kernel.numpy().copy()
    model.train_on_batch(setting.x, setting.y)
    assert not np.array_equal(before, source.get_layer("conv1").kernel)


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


@pytest.mark.parametrize("use", ["fit", "train_on_batch"])
def test_a_teacher_whose_weights_were_changed_teaches_with_the_new_ones(setting, use):
    """On JAX the compiled step has the teacher's weights as constants."""
    teacher = keras.models.clone_model(setting.teacher)
    teacher.set_weights(setting.teacher.get_weights())
    model = KD(teacher, setting.student(), weight=1.0, task_weight=0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)

    def kd():
        if use == "train_on_batch":
            model.reset_metrics()  # Keras 3.14 shows means over all calls
            return model.train_on_batch(setting.x, setting.y, return_dict=True)["kd"]
        return model.fit(setting.x, setting.y, batch_size=12, verbose=0).history["kd"][0]

    first, again = kd(), kd()
    assert again == pytest.approx(first)
    earlier = model.train_function  # JAX keeps what it compiled for it
    head = teacher.get_layer("fc")
    head.set_weights([3 * weight for weight in head.get_weights()])
    changed = kd()
    assert changed != pytest.approx(first, rel=0.1)
    assert kd() == pytest.approx(changed)
    assert earlier is not None


def test_a_distiller_that_is_compiled_again_has_the_new_loss(setting):
    """Keras' own step on JAX keeps the old one while anything refers to the old step."""
    model = KD(setting.teacher, setting.student(), weight=0.0)
    for label_smoothing, reduction in ((0.0, "sum_over_batch_size"), (0.5, "sum")):
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing, reduction=reduction
        )
        model.compile(keras.optimizers.SGD(0.0), loss)
        y = keras.utils.to_categorical(setting.y, model.student.output_shape[-1])
        history = model.fit(setting.x, y, batch_size=len(y), verbose=0).history
        evaluated = model.evaluate(setting.x, y, batch_size=len(y), verbose=0)
        earlier = model.train_function, model.test_function
        expected = loss(y, model.student(setting.x, training=False))
        assert evaluated == pytest.approx(float(expected), rel=1e-4)
        expected = loss(y, model.student(setting.x, training=True))
        assert history["task_loss"][0] == pytest.approx(float(expected), rel=1e-4)
    assert earlier is not None
