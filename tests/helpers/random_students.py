import keras
import numpy as np

from letkd_keras import KDLayer, insert_kd_layers, models


def trained_looking(model, seed=0):
    """Random weights, scales and statistics everywhere, so that nothing is 0 or 1 by accident."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        value = np.asarray(variable)
        name = variable.path.rsplit("/", 1)[-1]
        if name in ("gamma", "moving_variance"):
            value = rng.uniform(0.7, 1.4, value.shape)
        elif name in ("beta", "moving_mean", "bias"):
            value = rng.normal(0, 0.2, value.shape)
        elif name.endswith("_scale"):
            value = rng.uniform(1.5, 2.5)
        variable.assign(value)
    return model


def with_kd_layers(name, templates=(24, 16), classes=5, size=16, alphas=(1.0, 1.0)):
    """A student of the zoo with both KD layers in it, random in every weight."""
    keras.utils.set_random_seed(0)
    student = models.build(name, num_classes=classes, input_shape=(size, size, 3))
    model = insert_kd_layers(
        student,
        KDLayer(templates[0], alpha=alphas[0], name="kd_penultimate"),
        KDLayer(templates[1], alpha=alphas[1], name="kd_intermediate"),
    )
    return trained_looking(model)
