import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed"),
]


def _passed_on_jax(file, *arguments):
    """The last lines of pytest in a process whose backend is JAX, if all tests passed."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(Path(__file__).with_name(file)), *arguments),
        ],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_golden_steps_on_jax():
    """The golden steps of both methods."""
    assert "4 passed" in _passed_on_jax("test_golden_steps.py", "-k", "resnet56_resnet20")


def test_images_without_labels_on_jax():
    assert " passed" in _passed_on_jax("test_unlabelled.py")


def test_a_changed_teacher_and_another_compile_on_jax():
    chosen = "weights_were_changed or compiled_again"
    assert "3 passed" in _passed_on_jax("test_kd.py", "-k", chosen)


def test_metrics_and_labels_on_jax():
    chosen = "refused_before_the_training or first_batch"
    assert " passed" in _passed_on_jax("test_training_arguments.py", "-k", chosen)


def test_memories_on_jax():
    """CRD, whose memories are variables that the step changes."""
    assert "4 passed" in _passed_on_jax("test_dtype_policies.py", "-k", "CRD")


def test_averaged_weights_on_jax():
    """Keras 3.15 has no step after a training that ended with averages."""
    assert "1 passed" in _passed_on_jax("test_keras_callbacks.py", "-k", "can_go_on")


def test_regularizers_on_jax():
    assert "1 passed" in _passed_on_jax("test_distiller.py", "-k", "activity_regularizer")
