"""Prototypes on the JAX backend where importing TensorFlow fails."""

import sys


class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, NoTensorFlow())

import keras  # noqa: E402
import numpy as np  # noqa: E402
from small_problem import SIZES, small_images, small_teacher  # noqa: E402

from letkd_keras.prototypes import Prototypes, fit_prototypes  # noqa: E402

assert keras.backend.backend() == "jax"
teacher, (x, y) = small_teacher(), small_images()
prototypes = fit_prototypes(teacher, (x, y), **SIZES, batch_size=16)
prototypes.save(sys.argv[1])
prototypes = Prototypes.load(sys.argv[1])
prototypes.check_teacher(teacher)
features = keras.Model(teacher.inputs, teacher.get_layer("intermediate").output)(x)
lda_mean = np.asarray(features).reshape(-1, 6).mean(axis=0)
np.testing.assert_allclose(prototypes.intermediate.lda_mean, lda_mean, rtol=1e-4)
assert prototypes.manifest["backend"] == "jax"
assert not [name for name in sys.modules if name.split(".")[0] == "tensorflow"]
print("fitted")
