"""What --optimizer, --schedule, --ema and the others change, and that trainings still continue."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from small_training import small_model, small_schedule

from letkd_keras.data import load_digits
from letkd_keras.recipes import cifar100
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.trainings import training, training_folder
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training import train
from letkd_keras.recipes.trainings.training_data import balanced_class_weights
from letkd_keras.recipes.trainings.training_state import is_over, read_state


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def data():
    return load_digits().subset(64, 32)


def _train(model, data, folder, schedule, **options):
    options = {"seed": 5, "augmentation": {"flip": False}, **options}
    return train(model, data, schedule, folder, **options)


ALL = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "warm_up_epochs": 1,
    "label_smoothing": 0.1,
    "ema": 0.9,
    "clip_norm": 1.0,
}


@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, None), (ALL, None), (ALL, "float16"), ({"ema": 0.9}, None), ({"ema": 0.9}, "float16")],
)
def test_an_interrupted_training_ends_with_the_same_weights(
    options, precision, data, tmp_path, monkeypatch
):
    schedule = Schedule(3, 0.1, (1, 2), 16, mixed_precision=precision, **options)
    with schedule.precision():
        undisturbed, interrupted, resumed = small_model(), small_model(), small_model()
        expected = _train(undisturbed, data, tmp_path / "undisturbed", schedule)
        with monkeypatch.context() as patched:

            class Stop(training.StopOnNonFiniteLoss):
                def on_train_batch_end(self, batch, logs=None):
                    if (self.epoch, batch) == (1, 2):
                        raise Interrupted

            patched.setattr(training, "StopOnNonFiniteLoss", Stop)
            with pytest.raises(Interrupted):
                _train(interrupted, data, tmp_path / "run", schedule)
        assert read_state(tmp_path / "run")["epochs"] == 1
        result = _train(resumed, data, tmp_path / "run", schedule)
    for weights in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(*weights)
    for key in ("accuracy_last", "accuracy_best", "best_epoch", "epochs"):
        assert result[key] == expected[key]
    # The weights of earlier epochs are deleted.
    assert [file.name for file in (tmp_path / "run").glob("*.h5")] == ["state-3.weights.h5"]
    # A training whose model was not saved after the last epoch ends with the same weights, too.
    with schedule.precision():
        again = small_model()
        _train(again, data, tmp_path / "run", schedule)
    for weights in zip(again.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(*weights)


def test_the_averaged_weights_are_evaluated_and_returned(data, tmp_path):
    schedule = small_schedule(ema=0.95)
    model, plain = small_model(), small_model()
    result = _train(model, data, tmp_path / "ema", schedule)
    _train(plain, data, tmp_path / "plain", small_schedule())
    # The steps are the same; the weights of the training are in the state.
    last = small_model()
    last.compile(optimizer=schedule.make_optimizer(4), loss="mse")
    last.optimizer.build(last.trainable_variables)
    last.load_weights(tmp_path / "ema" / "state-3.weights.h5")
    for state, expected in zip(last.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(state, expected, rtol=1e-3, atol=1e-5)
    # The kernel of the last layer.
    assert np.abs(model.get_weights()[-2] - plain.get_weights()[-2]).max() > 1e-3
    logs = model.evaluate(data.evaluation_batches(256), return_dict=True, verbose=0)
    assert result["accuracy_last"] == pytest.approx(100 * logs["accuracy"])


def test_the_averaged_weights_of_the_best_epoch_are_selected(data, tmp_path):
    data = data.hold_out(0.25)
    model = small_model()
    result = _train(model, data, tmp_path, small_schedule(ema=0.8))
    for split, key in (("validation", "accuracy_validation"), ("test", "accuracy_selected")):
        logs = model.evaluate(data.evaluation_batches(256, split), return_dict=True, verbose=0)
        assert 100 * logs["accuracy"] == pytest.approx(result[key])


def test_the_average_by_hand(data, tmp_path):
    """After one step from w0 to w1 the average is 0.9 w0 + 0.1 w1."""
    schedule = Schedule(1, 0.05, (), batch_size=64, ema=0.9)
    averaged, plain = small_model(), small_model()
    start = plain.get_weights()
    _train(averaged, data, tmp_path / "ema", schedule)
    _train(plain, data, tmp_path / "plain", replace(schedule, ema=None))
    for first, end, mean in zip(start, plain.get_weights(), averaged.get_weights(), strict=True):
        if np.array_equal(end, mean):
            continue  # statistics of batch normalization are not averaged again
        np.testing.assert_allclose(mean, 0.9 * first + 0.1 * end, atol=1e-5)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_layers_compute_in_the_type_and_weights_are_float32(precision, data, tmp_path):
    schedule = small_schedule(mixed_precision=precision)
    with schedule.precision():
        model = small_model()
        _train(model, data, tmp_path, schedule)
    assert keras.config.dtype_policy().name == "float32"
    assert {layer.compute_dtype for layer in model.layers[1:]} == {precision}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (precision == "float16")


def test_class_weights_weight_the_loss(data, tmp_path):
    rows = np.concatenate([np.flatnonzero(data.y_train == 0)[:2], np.arange(64)])
    labels = data.y_train[rows].copy()
    labels[2:] = np.maximum(labels[2:], 1)
    unbalanced = replace(data, x_train=data.x_train[rows], y_train=labels)
    _train(
        small_model(),
        unbalanced,
        tmp_path,
        Schedule(1, 1e-30, (), batch_size=66, weight_decay=0.0),
        class_weights="balanced",
        augmentation={"flip": False, "crop_padding": 0},
    )
    (row,) = training_folder.read_metrics(tmp_path / "metrics.csv")
    batch = next(iter(unbalanced.evaluation_batches(66, "train")))
    log_p = keras.ops.log_softmax(small_model()(batch[0], training=True))
    losses = -np.asarray(log_p)[np.arange(66), labels]
    weights = balanced_class_weights(unbalanced)
    weights = [weights[label] for label in labels]
    assert row["loss"] == pytest.approx(np.mean(losses * weights), rel=1e-4)
    assert abs(row["loss"] - losses.mean()) > 1e-3


CALLBACK = """
import keras

class Steps(keras.callbacks.Callback):
    seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(logs["loss"])

class Needy(keras.callbacks.Callback):
    def __init__(self, path):
        super().__init__()

class ForgetAtEnd(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        self.model.set_weights([0 * weights for weights in self.model.get_weights()])

class OwnScheduler(keras.callbacks.LearningRateScheduler):
    def __init__(self):
        super().__init__(lambda epoch: 0.1)

class StopAfterTwo(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_callbacks.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_callbacks"


def test_a_callback_by_name_sees_every_step(module, data, tmp_path):
    _train(small_model(), data, tmp_path / "run", small_schedule(), callbacks=[f"{module}:Steps"])
    assert len(training.make_callback(f"{module}:Steps").seen) == 3 * 4


@pytest.mark.parametrize(
    "name",
    ["absent_module:X", "own_callbacks:Absent", "own_callbacks:number", "own_callbacks", ":"],
)
def test_a_name_that_is_no_callback_is_refused(name, module):
    with pytest.raises(ValueError, match="`callback` must be MODULE:CLASS"):
        training.make_callback(name)


def test_a_callback_that_needs_arguments_is_refused(module):
    with pytest.raises(ValueError, match=r"made without arguments.*Needy \(.*'path'\)"):
        training.make_callback(f"{module}:Needy")


@pytest.mark.parametrize(
    "name", ["keras.callbacks:ReduceLROnPlateau", "own_callbacks:OwnScheduler"]
)
def test_a_callback_that_sets_the_learning_rate_is_refused(name, module):
    with pytest.raises(ValueError, match=rf"`callback` must not set .*use `schedule`.*{name}"):
        training.make_callback(name)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}], ids=["plain", "ema"])
def test_the_weights_are_those_whose_accuracy_is_reported(options, module, data, tmp_path):
    """Whatever a callback does to them at the end, as `EarlyStopping` does."""
    model, plain = small_model(), small_model()
    schedule, callbacks = small_schedule(**options), [f"{module}:ForgetAtEnd"]
    result = _train(model, data, tmp_path / "run", schedule, callbacks=callbacks)
    expected = _train(plain, data, tmp_path / "plain", schedule)
    assert result["accuracy_last"] == expected["accuracy_last"]
    for weights in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(*weights)


def test_a_training_that_a_callback_ended_is_over(module, data, tmp_path):
    options = {"callbacks": [f"{module}:StopAfterTwo"]}
    result = _train(small_model(), data, tmp_path / "run", small_schedule(), **options)
    assert result["epochs"] == 2
    state = read_state(tmp_path / "run")
    assert is_over(state, 3) and not is_over({**state, "stopped": False}, 3)
    # As the chief of several workers, which trains nothing itself.
    again = small_model()
    assert _train(again, data, tmp_path / "run", small_schedule())["epochs"] == 2
    assert read_state(tmp_path / "run") == state


# === From options to the experiment ===

pytestmark = pytest.mark.usefixtures("cifar100_noise")


def _experiment(text, recipe=cifar100):
    return experiment_of(recipe.parse(text.split()), recipe.SETTINGS)


def test_options_reach_the_schedules_and_the_config():
    experiment = _experiment(
        "--optimizer adamw --schedule cosine --warm-up-epochs 5 --label-smoothing 0.1 --ema 0.999 "
        "--mixed-precision bfloat16 --clip-norm 2 --class-weights balanced --growth 30% "
        "--callback keras.callbacks:History"
    )
    expected = {
        "optimizer": "adamw",
        "schedule": "cosine",
        "warm_up_epochs": 5,
        "ema": 0.999,
        "mixed_precision": "bfloat16",
        "clip_norm": 2.0,
        "weight_decay": 0.05,
        "learning_rate": 0.001,
    }
    config = json.loads(json.dumps(experiment.config()))
    for role in ("teacher", "student"):
        schedule = config[f"{role}_schedule"]
        assert {name: schedule[name] for name in expected} == expected
        assert Schedule.from_config(schedule) == getattr(experiment, f"{role}_schedule")
    # Students are trained on smoothed labels, their teacher is not.
    assert config["student_schedule"]["label_smoothing"] == 0.1
    assert config["teacher_schedule"]["label_smoothing"] == 0
    assert config["class_weights"] == "balanced" and config["growth"] == 0.3
    assert config["callbacks"] == ["keras.callbacks:History"]
    assert type(experiment).from_config(config).config() == config


def test_learning_rates_scale_with_the_batch_by_hand():
    """Four times the batch of 64: four times 0.05, after 5 of 240 epochs; milestones stay."""
    plain, scaled = (
        _experiment("--batch-size 256"),
        _experiment("--batch-size 256 --scale-learning-rate"),
    )
    for role in ("teacher_schedule", "student_schedule"):
        schedule = getattr(scaled, role)
        assert schedule == replace(
            getattr(plain, role),
            learning_rate=pytest.approx(0.2),
            warm_up_epochs=5,
            learning_rate_scale=4.0,
        )
    rates = scaled.student_schedule.learning_rates(10)
    assert [float(rates(step)) for step in (0, 24, 49, 1000)] == pytest.approx(
        [0.2 / 50, 0.1, 0.2, 0.2]
    )
    # An 18th of the epochs, as 5 of 90.
    assert Schedule(36, 0.1, (), 128).scaled_from(64).warm_up_epochs == 2
    assert Schedule(6, 0.1, (), 128).scaled_from(64).warm_up_epochs == 1
    assert Schedule(1, 0.1, (), 128).scaled_from(64).warm_up_epochs == 0


def test_a_given_rate_is_scaled_and_a_given_warm_up_kept():
    experiment = _experiment(
        "--batch-size 128 --scale-learning-rate --learning-rate 0.3 --warm-up-epochs 2 "
    )
    assert experiment.student_schedule.learning_rate == pytest.approx(0.6)
    assert experiment.student_schedule.warm_up_epochs == 2
    smaller = _experiment("--batch-size 32 --scale-learning-rate").student_schedule
    assert (smaller.learning_rate, smaller.warm_up_epochs) == (0.025, 0)
    assert _experiment("--scale-learning-rate").config() == _experiment("").config()


def test_the_rule_for_large_batches_is_for_sgd():
    with pytest.raises(ValueError, match="`scale_learning_rate` is a rule for the optimizer sgd"):
        _experiment("--optimizer adamw --scale-learning-rate")


def test_what_is_given_takes_precedence_over_the_numbers_for_adamw():
    experiment = _experiment(
        "--optimizer adamw --weight-decay 0.1 --learning-rate 0.01 --teacher-learning-rate 0.02"
    )
    schedules = experiment.student_schedule, experiment.teacher_schedule
    assert [schedule.learning_rate for schedule in schedules] == [0.01, 0.02]
    assert [schedule.weight_decay for schedule in schedules] == [0.1, 0.1]
    assert _experiment("--weight-decay 0").student_schedule.weight_decay == 0


def test_a_callback_is_looked_for_before_the_data_are_read(monkeypatch):
    monkeypatch.setattr("letkd_keras.data.DataSpec.open", None)
    with pytest.raises(ValueError, match="`callback` must be MODULE:CLASS"):
        _experiment("--callback no_such_module:Class")
    with pytest.raises(ValueError, match="that is made without arguments"):
        _experiment("--callback keras.callbacks:ModelCheckpoint")
