import keras
import numpy as np
import pytest
from letkd_steps import LOSSES, coarse_student, compiled, fine_student, letkd, step

from letkd_keras import LetKD, fit_prototypes, quantization_aware


def _losses_and_gradients(setting, student=None, weights=None, **kwargs):
    """Losses, gradients by path and batch statistics of a step of TensorFlow, in float64."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = compiled(letkd(setting, student and student(), **kwargs))
    with tf.GradientTape() as tape:
        teacher_outputs = model.compute_teacher_outputs(setting.x, setting.y)
        student_outputs = model.compute_student_outputs(setting.x)
        total, parts = model.compute_total_loss(
            setting.x, setting.y, student_outputs, teacher_outputs, weights
        )
    gradients = tape.gradient(total, [w.value for w in model.trainable_weights])
    state = [w for w in model.student.non_trainable_weights if w.dtype == "float64"]
    values = {"total": total, **parts}
    values |= {f"gradient {i}": gradient for i, gradient in enumerate(gradients)}
    values |= {f"statistic {i}": weight.value for i, weight in enumerate(state)}
    return {name: np.asarray(value) for name, value in values.items()}


@pytest.mark.parametrize("case", ["plain", "weighted", "coarse", "quest", "fine"])
def test_in_blocks_losses_and_gradients_are_the_same(setting, case):
    student = {"coarse": coarse_student, "fine": fine_student}.get(case)
    options = {"levels": ("penultimate",)} if case in ("coarse", "fine", "quest") else {}
    if case == "quest":
        options["penultimate_alpha"] = 0
    weights = np.linspace(0, 2, 12) if case == "weighted" else None
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        expected = _losses_and_gradients(setting, student, weights, **options)
        for block_size in (5, 12):
            actual = _losses_and_gradients(
                setting, student, weights, **options, block_size=block_size
            )
            assert actual.keys() == expected.keys()
            for name in expected:
                error = np.abs(actual[name] - expected[name]).max()
                assert error <= 1e-10 * np.abs(expected[name]).max() + 1e-12, name
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def test_in_blocks_weights_may_be_a_column(setting):
    model = letkd(setting, levels=("penultimate",), block_size=5)
    outputs = model.compute_student_outputs(setting.x)
    teacher_outputs = model.compute_teacher_outputs(setting.x, setting.y)
    weights = np.linspace(0, 2, 12)
    row, column, none = (
        float(model.compute_distillation_losses(outputs, teacher_outputs, each)["kl_penultimate"])
        for each in (weights, weights[:, None], None)
    )
    assert column == pytest.approx(row, rel=1e-6)
    assert none != pytest.approx(row, rel=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_blocks_it_trains_where_losses_are_of_half_precision(setting, dtype):
    keras.config.set_floatx(dtype)
    try:
        logs = [step(compiled(letkd(setting, block_size=size)), setting) for size in (5, None)]
    finally:
        keras.config.set_floatx("float32")
    for name in LOSSES:
        assert logs[0][name] == pytest.approx(logs[1][name], rel=0.02)


def test_a_quantization_aware_student_computes_without_blocks(setting):
    student = quantization_aware(letkd(setting).student)
    losses = [
        step(compiled(LetKD(setting.teacher, copy, setting.prototypes, block_size=size)), setting)
        for size, copy in ((5, student), (None, quantization_aware(letkd(setting).student)))
    ]
    for name in LOSSES:
        assert losses[0][name] == pytest.approx(losses[1][name], rel=1e-5)


def _channels_first_network(width, weights=None):
    inputs = keras.Input((3, 8, 8))
    x = keras.layers.Conv2D(width, 3, 2, padding="same", name="conv1")(inputs)
    x = keras.layers.BatchNormalization(axis=1)(x)
    x = keras.layers.ReLU(name="intermediate")(x)
    x = keras.layers.Conv2D(width + 2, 3, padding="same", name="conv2")(x)
    x = keras.layers.ReLU(name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    if weights is not None:
        model.set_weights(weights)
    return model


def test_in_blocks_channels_first_networks_are_trained_the_same(setting):
    x, results = np.moveaxis(setting.x, -1, 1), []
    keras.config.set_image_data_format("channels_first")
    try:
        teacher, student = _channels_first_network(6), _channels_first_network(4)
        prototypes = fit_prototypes(
            *(teacher, (x, setting.y)), templates=5, subclasses=2, components=2, iterations=3
        )
        for size in (5, None):
            keras.utils.set_random_seed(0)
            copy = _channels_first_network(4, student.get_weights())
            model = compiled(LetKD(teacher, copy, prototypes, block_size=size))
            logs = model.train_on_batch(x, setting.y, return_dict=True)
            results.append((logs, model.student.get_weights()))
    finally:
        keras.config.set_image_data_format("channels_last")
    (logs, weights), (expected_logs, expected_weights) = results
    for name in LOSSES:
        assert float(logs[name]) == pytest.approx(float(expected_logs[name]), rel=1e-4)
    for actual, expected in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)


def test_in_blocks_it_fits_saves_and_loads(tmp_path, setting):
    model = compiled(letkd(setting, block_size=2), run_eagerly=False)
    # The last batch has two images, a block and no other.
    history = model.fit(setting.x, setting.y, batch_size=5, epochs=2, verbose=0).history
    assert sorted(history) == sorted([*LOSSES, "accuracy"])
    assert np.isfinite(list(history.values())).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.block_size == 2
    for block_size in (0, 2.5, "8"):
        with pytest.raises(ValueError, match="`block_size` must be an integer of at least 1"):
            letkd(setting, block_size=block_size)
