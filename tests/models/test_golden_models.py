import json

import keras
import numpy as np
import pytest
from golden_weights import rule_weights
from relative_error import relative_error

from letkd_keras import models


def test_logits_and_feature_maps_are_those_of_the_authors_networks(golden_model):
    name = golden_model.stem.removeprefix("model_")
    if name not in models.names():
        pytest.skip(f"no network {name!r} in the zoo")
    with np.load(golden_model) as golden:
        model = models.build(name, golden["logits"].shape[-1], golden["x"].shape[1:])
        weights = rule_weights(json.loads(str(golden["keys"])), golden["seed"])
        models.assign_state_dict(model, weights)
        trainable = sum(np.prod(weight.shape) for weight in model.trainable_weights)
        assert trainable == golden["trainable_params"]

        levels = ["intermediate", "penultimate"]
        maps = {level: model.get_layer(level).output for level in levels}
        outputs = {**maps, "logits": model.output}
        results = keras.Model(model.input, outputs)(golden["x"], training=False)
        errors = {key: relative_error(results[key], golden[key]) for key in results}
    assert max(errors.values()) <= 1e-5, errors
