import importlib.util

import numpy as np
import pytest
from in_a_process import in_a_process
from small_problem import small_images

from letkd_keras.prototypes.teacher_features import TeacherFeatures, _equal_parts


def test_one_level_alone_gives_the_same_features_and_runs_the_teacher_no_further(teacher):
    layers = {"penultimate": "penultimate", "intermediate": "intermediate"}
    (x, _), both = small_images(8), TeacherFeatures(teacher(), layers, 2)
    alone = both.only("intermediate")
    assert alone.layers == {"intermediate": "intermediate"}
    assert alone.pool_sizes == {"intermediate": 2}
    assert alone.grids == {"intermediate": (2, 2)}
    features = alone(x)["intermediate"]
    np.testing.assert_allclose(features, both(x)["intermediate"], rtol=1e-5, atol=1e-6)
    names = [layer.name for layer in alone.model.layers]
    assert "intermediate" in names and "penultimate" not in names


def test_the_grid_of_the_teacher_is_kept_unless_pooling_is_asked_for(teacher):
    features = TeacherFeatures(teacher(), {"penultimate": "penultimate"})
    assert features.pool_sizes == {"penultimate": 1}
    assert features.grids == {"penultimate": (4, 4)}


@pytest.mark.parametrize(
    ("images", "number", "parts"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1, 2], [3, 4, 4]]),
        (5, 3, [[0, 1], [2, 3], [4, 4]]),
        (1, 3, [[0], [0], [0]]),
    ],
)
def test_replicas_get_parts_of_one_size(images, number, parts):
    assert [part.tolist() for part in _equal_parts(np.arange(images), number)] == parts


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
def test_two_replicas_share_each_batch_and_give_what_one_gives():
    done = in_a_process("replicated_teacher.py")
    assert done.stdout.split() == ["equal"], done.stderr[-3000:]


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_needs_no_tensorflow(tmp_path):
    done = in_a_process("prototypes_without_tensorflow.py", tmp_path / "p.npz", KERAS_BACKEND="jax")
    assert done.stdout.split() == ["fitted"], done.stderr[-3000:]
