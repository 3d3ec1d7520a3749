"""The CIFAR-100 recipe from teacher to report, on JAX, where importing TensorFlow fails.

KERAS_BACKEND=jax python recipe_without_tensorflow.py IMAGES.npz OUT TEACHER-STUDENT
"""

import importlib.metadata
import sys

for name in ("tensorflow", "tensorflow_datasets", "tf_keras", "keras_cv"):
    sys.modules[name] = None

version = importlib.metadata.version


def only_of_what_is_there(name):
    if name == "tensorflow":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)


importlib.metadata.version = only_of_what_is_there

import keras  # noqa: E402

from letkd_keras.commands.terminal_log import set_up_logging  # noqa: E402
from letkd_keras.recipes import cifar100  # noqa: E402

assert keras.backend.backend() == "jax"
images, out, pair = sys.argv[1:]
options = {
    "--data": images,
    "--out": out,
    "--pair": pair,
    "--epochs": 2,
    "--templates": 16,
    "--subclasses": 2,
    "--batch-size": 24,
}
set_up_logging()
cifar100.main([str(word) for pair in options.items() for word in pair])
assert not [name for name in sys.modules if name.startswith("tensorflow.")]
