import inspect

import keras
import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras.distillers.at import AttentionError
from letkd_keras.distillers.crd import NoiseContrastiveLoss
from letkd_keras.distillers.feature_maps import FeatureMeanSquaredError
from letkd_keras.distillers.sp import SimilarityError
from letkd_keras.distillers.vid import GaussianNegativeLogLikelihood
from letkd_keras.losses import (
    DISTLoss,
    DKDLoss,
    KDLoss,
    RLDLoss,
    SmoothedCrossentropy,
    TemplateKLDivergence,
    WTTMLoss,
)
from letkd_keras.losses.logits_distillation import LogitsDistillationLoss
from letkd_keras.losses.loss import Loss, ScalarLoss

LOSSES = [
    *(DISTLoss, DKDLoss, KDLoss, RLDLoss, WTTMLoss, TemplateKLDivergence),
    *(AttentionError, FeatureMeanSquaredError, GaussianNegativeLogLikelihood, SimilarityError),
    *(LogitsDistillationLoss, lambda **options: NoiseContrastiveLoss(50, **options)),
    lambda **options: SmoothedCrossentropy(0.1, **options),
]


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("dtype", [None, "float64", "float16"])
def test_every_loss_keeps_its_dtype_when_it_is_saved(make, dtype):
    loss = make(dtype=dtype, reduction="sum", name="mine")
    assert isinstance(loss, Loss)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is type(loss) and has_registered_name(again)
    assert again.dtype == loss.dtype == (dtype or "float32")
    assert again.get_config() == loss.get_config()
    assert (again.reduction, again.name) == ("sum", "mine")
    # Files of before have no dtype.
    config = {name: value for name, value in loss.get_config().items() if name != "dtype"}
    assert type(loss).from_config(config).dtype == "float32"


@pytest.mark.parametrize("make", LOSSES)
def test_every_argument_is_saved(make):
    loss = make()
    assert set(loss.get_config()) == set(inspect.signature(type(loss)).parameters)


def test_a_loss_that_extends_another_is_saved_with_the_options_of_both():
    class Shifted(KDLoss):
        def __init__(self, shift, sign=1, **kwargs):
            super().__init__(**kwargs)
            self.shift, self._sign = shift, sign

    class Signed(Shifted):
        def get_config(self):
            return {**super().get_config(), "sign": self._sign}

    config = {"temperature": 3.0, "standardize_logits": True, "shift": 2}
    assert config.items() <= Shifted(**config).get_config().items()
    assert "sign" not in Shifted(**config).get_config()  # it is no attribute of this name
    assert Signed.from_config(Signed(sign=-1, **config).get_config())._sign == -1


def test_the_dtype_is_that_of_the_computation():
    x, y = np.ones((2, 3, 3, 4)), np.zeros((2, 3, 3, 4))
    loss = FeatureMeanSquaredError(dtype="float64")
    for each in (loss, FeatureMeanSquaredError.from_config(loss.get_config())):
        value = each(x, y)
        assert keras.backend.standardize_dtype(value.dtype) == "float64" and float(value) == 1.0


def test_a_scalar_is_its_own_loss():
    assert float(ScalarLoss()(0.0, 2.5)) == 2.5
