from types import SimpleNamespace

import keras
import numpy as np
import pytest

from letkd_keras import fit_prototypes

CLASSES = 3


@keras.saving.register_keras_serializable("letkd_keras_tests")
class CountRuns(keras.layers.Layer):
    """Passes its input on and counts how often it truly ran, in no weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._hidden = SimpleNamespace(runs=keras.Variable(0, dtype="int32"))

    @property
    def runs(self):
        return int(self._hidden.runs.numpy())

    def call(self, inputs):
        self._hidden.runs.assign_add(1)
        return inputs


def small_network(width=4, classes=CLASSES, size=8, seed=0, l2=None, name="small"):
    """Two blocks, both letKD layers, batch normalization, a counter of its runs at the input."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3))
    x = CountRuns(name="count_runs")(inputs)
    x = keras.layers.Conv2D(width, 3, 2, padding="same", name="conv1")(x)
    x = keras.layers.BatchNormalization(name="bn1")(x)
    x = keras.layers.ReLU(name="intermediate")(x)
    x = keras.layers.Conv2D(width + 2, 3, padding="same", name="conv2")(x)
    x = keras.layers.BatchNormalization(name="bn2")(x)
    x = keras.layers.ReLU(name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    regularizer = None if l2 is None else keras.regularizers.L2(l2)
    logits = keras.layers.Dense(classes, kernel_regularizer=regularizer, name="fc")(x)
    return keras.Model(inputs, logits, name=name)


def small_images(images=12, size=8, seed=0):
    r = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    colors = r.standard_normal((CLASSES, 1, 1, 3))
    x = colors[labels] + r.standard_normal((images, size, size, 3))
    return x.astype("float32"), labels


@pytest.fixture(scope="module")
def setting():
    """Functions and objects for a distillation of moments: teacher, prototypes, x, y, student."""
    x, y = small_images()
    teacher = small_network(width=6, seed=1, name="teacher")
    teacher.get_layer("bn2").moving_mean.assign(np.linspace(-0.1, 0.1, 8))

    def prototypes_of(model):
        numbers = {"templates": 5, "subclasses": 2, "components": 2, "iterations": 3}
        return fit_prototypes(model, (x, y), **numbers)

    return SimpleNamespace(
        x=x,
        y=y,
        teacher=teacher,
        prototypes_of=prototypes_of,
        prototypes=prototypes_of(teacher),
        student=small_network,
        images=small_images,
    )


def staged_network(channels, seed):
    """Three stages of one block on grids of 8x8, 4x4 and 2x2; the last has a second block."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((8, 8, 3))
    for stage, width in enumerate(channels, start=1):
        stride = 1 if stage == 1 else 2
        x = keras.layers.Conv2D(width, 3, stride, padding="same", activation="relu")(x)
        if stage == 3:
            x = keras.layers.Identity(name="intermediate")(x)
            x = keras.layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        x = keras.layers.Identity(name=f"stage{stage}")(x)
    x = keras.layers.Identity(name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name=f"staged{seed}")


@pytest.fixture
def staged_networks():
    """A teacher and a student with three stages."""
    return staged_network((4, 6, 8), 1), staged_network((3, 4, 5), 2)


@pytest.fixture
def state_of():
    """A function: copies of all of a model's weights, and its optimizer's, by path."""

    def state(model):
        variables = [*model.weights, *(model.optimizer.variables if model.optimizer else [])]
        return {v.path: keras.ops.convert_to_numpy(v).copy() for v in variables}

    return state
