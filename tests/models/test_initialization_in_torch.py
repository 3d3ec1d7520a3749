import keras
import numpy as np
import pytest

from letkd_keras.models.initialization import torch_uniform

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "module, arguments, groups, kernel_shape",
    [
        ("Conv2d", (24, 40, 3), {}, (3, 3, 24, 40)),
        ("Conv2d", (24, 48, 3), {"groups": 4}, (3, 3, 6, 48)),
        ("Conv2d", (24, 24, 5), {"groups": 24}, (5, 5, 24, 1)),
        ("ConvTranspose2d", (24, 40, 4), {}, (4, 4, 40, 24)),
        ("Linear", (24, 400), {}, (24, 400)),
    ],
)
def test_layers_of_pytorch_start_with_the_same_bound(module, arguments, groups, kernel_shape):
    torch.manual_seed(0)
    weight = getattr(torch.nn, module)(*arguments, **groups).weight.detach().numpy()
    keras.utils.set_random_seed(2)
    kernel = np.asarray(torch_uniform(kernel_shape[-1] == 1)(kernel_shape))
    assert kernel.size == weight.size
    assert np.abs(kernel).max() == pytest.approx(np.abs(weight).max(), rel=0.03)
    assert kernel.std() == pytest.approx(weight.std(), rel=0.1)
