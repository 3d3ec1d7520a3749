import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from letkd_keras.recipes.trainings import epochs_on_device

PROGRAM = Path(__file__).parents[2] / "programs" / "train_in_epochs_on_jax.py"
MODELS = ("network", "averaged", "distiller")


def test_it_does_not_apply_on_tensorflow():
    assert not epochs_on_device.applies(model=None, batches=None)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path_factory.mktemp("epochs")],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("model", MODELS)
def test_the_metrics_are_those_of_keras_fit(trainings, model):
    loop, fit = trainings[model]["loop"], trainings[model]["fit"]
    assert len(loop) == len(fit) == 3
    for row, expected in zip(loop, fit, strict=True):
        assert row.keys() == expected.keys()
        assert {"loss", "accuracy", "val_loss", "val_accuracy"} < row.keys()
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("model", MODELS)
def test_an_interrupted_training_ends_with_the_same_weights(trainings, model):
    assert trainings[model]["interrupted_after"] == 1
    assert trainings[model]["resumed"] == 0


@pytest.mark.parametrize("model", MODELS)
def test_short_epochs_do_not_wait_for_the_disk(trainings, model):
    every_epoch = [f"state-{number}.weights.h5" for number in (1, 2, 3)]
    assert trainings[model]["saved"] == {"fit": every_epoch, "loop": every_epoch[-1:]}


def test_a_loss_that_is_not_finite_is_reported_with_its_step(trainings):
    fit, loop = trainings["broken"]["fit"], trainings["broken"]["loop"]
    found = re.match(r"The loss is not finite in epoch (\d+), step (\d+)", fit)
    assert int(found[2]) < 4, "the test needs a step before the last one of the epoch"
    assert loop.startswith(found[0])
