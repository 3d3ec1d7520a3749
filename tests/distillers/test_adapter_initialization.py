"""Adapters start as PyTorch's layers do: uniform within +-1/sqrt(fan in), kernel and bias."""

import keras
import numpy as np
import pytest

from letkd_keras import models
from letkd_keras.distillers import SimKD
from letkd_keras.distillers.crd import _embedding
from letkd_keras.distillers.fitnet import regressor_of
from letkd_keras.distillers.vid import VariationalRegressor


def _check_uniform(values, fan_in):
    """A sample of the uniform distribution, by its range, deviation and kurtosis."""
    values, bound = np.asarray(values, "float64").ravel(), fan_in**-0.5
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    few = 6 / np.sqrt(len(values))
    assert values.mean() == pytest.approx(0, abs=few * bound)
    assert values.std() == pytest.approx(bound / np.sqrt(3), rel=few)
    # 1.8 for a uniform distribution, 3 for a normal one.
    assert (values**4).mean() / (values**2).mean() ** 2 == pytest.approx(1.8, abs=5 * few)


@pytest.mark.parametrize(
    ("student_grid", "teacher_grid", "fan_in"),
    [(8, 8, 48), (16, 8, 9 * 48), (8, 16, 16 * 256)],
)
def test_fitnets_regressor(student_grid, teacher_grid, fan_in):
    keras.utils.set_random_seed(0)
    student, teacher = (student_grid, student_grid, 48), (teacher_grid, teacher_grid, 256)
    convolution = regressor_of(student, teacher).get_layer("convolution")
    # PyTorch counts a transposed convolution's fan in on its output channels.
    _check_uniform(convolution.kernel, fan_in)
    assert convolution.use_bias
    _check_uniform(convolution.bias, fan_in)


def test_a_grid_four_times_as_coarse_is_transposed_by_four():
    regressor = regressor_of((2, 2, 3), (8, 8, 5))
    assert regressor.output_shape == (None, 8, 8, 5)
    convolution = regressor.get_layer("convolution")
    assert convolution.kernel.shape == (8, 8, 5, 3)
    assert np.abs(convolution.bias).max() <= (8 * 8 * 5) ** -0.5


def test_a_strided_regressor_pads_on_all_sides_as_pytorch_does():
    regressor = regressor_of((4, 4, 1), (2, 2, 1))
    convolution = regressor.get_layer("convolution")
    kernel = np.zeros((3, 3, 1, 1), "float32")
    kernel[0, 0] = 1
    convolution.set_weights([kernel, np.zeros(1, "float32")])
    head = keras.Sequential(regressor.layers[:2])
    x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    # The top left weight of the kernel reads one row above and one column left of 2 * (i, j).
    np.testing.assert_array_equal(np.asarray(head(x))[0, ..., 0], [[0, 0], [0, 5]])


def test_vids_regressors_have_no_bias():
    keras.utils.set_random_seed(0)
    regressor = VariationalRegressor(256)
    regressor.build((None, 8, 8, 48))
    kernels = regressor.mean.weights
    assert [w.name for w in kernels] == ["kernel"] * 3
    for kernel, fan_in in zip(kernels, (48, 256, 256), strict=True):
        _check_uniform(kernel, fan_in)
    assert not np.array_equal(kernels[1], kernels[2])


def test_simkds_projector_has_no_bias():
    keras.utils.set_random_seed(0)
    teacher, student = (models.build(name, 5) for name in ("resnet8x4", "resnet8"))
    student = SimKD(teacher, student).student
    for number, fan_in in ((1, 64), (2, 9 * 128), (3, 128)):
        convolution = student.get_layer(f"simkd_conv{number}")
        assert not convolution.use_bias
        _check_uniform(convolution.kernel, fan_in)


def test_crds_embeddings():
    keras.utils.set_random_seed(0)
    embedding = _embedding(64, 512, "embedding")
    _check_uniform(embedding.kernel, 64)
    _check_uniform(embedding.bias, 64)
