import json

import keras
import numpy as np
import pytest
from golden_weights import rule_weights
from relative_error import relative_error

from letkd_keras import models

# Float32 through 110 layers; elsewhere 1e-5.
_TOLERANCES = {"resnet110": 1e-4}


def test_logits_and_taps_are_those_of_the_authors_networks(golden_model):
    name = golden_model.stem.removeprefix("model_")
    if name not in models.names():
        pytest.skip(f"no network {name!r} in the zoo")
    with np.load(golden_model) as golden:
        model = models.build(name, golden["logits"].shape[-1], golden["x"].shape[1:])
        weights = rule_weights(json.loads(str(golden["keys"])), golden["seed"])
        models.assign_state_dict(model, weights)
        trainable = sum(np.prod(weight.shape) for weight in model.trainable_weights)
        assert trainable == golden["trainable_params"]

        taps = ["intermediate", "penultimate"]
        outputs = {tap: model.get_layer(tap).output for tap in taps} | {"logits": model.output}
        results = keras.Model(model.input, outputs)(golden["x"], training=False)
        errors = {key: relative_error(results[key], golden[key]) for key in results}
    assert max(errors.values()) <= _TOLERANCES.get(name, 1e-5), errors


@pytest.mark.parametrize("name", models.names())
def test_every_network_has_both_taps_and_gives_logits(name):
    model = models.build(name, num_classes=7)
    shapes = [model.get_layer(tap).output.shape for tap in ("intermediate", "penultimate")]
    assert all(len(shape) == 4 for shape in shapes)
    assert shapes[0][1:3] == shapes[1][1:3]
    assert model.output_shape == (None, 7)
    assert model.layers[-1].activation is keras.activations.linear
    assert model.name == name


def test_the_grid_follows_the_image_and_may_be_unknown():
    assert models.build("resnet8", 10, (64, 48, 3)).get_layer("penultimate").output.shape == (
        None,
        16,
        12,
        64,
    )
    free = models.build("resnet8", 10, (None, None, 1))
    assert free(np.zeros((2, 20, 24, 1), "float32")).shape == (2, 10)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"one of resnet8, .*'resnet21'.*mean 'resnet"):
        models.build("resnet21")
    with pytest.raises(ValueError, match=r"`num_classes` must be .*num_classes=1"):
        models.build("resnet8", num_classes=1)
    with pytest.raises(ValueError, match=r"`num_classes` must be .*num_classes=10.0"):
        models.build("resnet8", num_classes=10.0)
    with pytest.raises(ValueError, match=r"`input_shape` must be .*\(32, 32\)"):
        models.build("resnet8", input_shape=(32, 32))
