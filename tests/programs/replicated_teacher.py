"""Features of a teacher on two replicas; in a process of its own, for its logical devices."""

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

from small_problem import SIZES, small_images, small_teacher  # noqa: E402

from letkd_keras.prototypes import fit_prototypes, teacher_features  # noqa: E402
from letkd_keras.prototypes.teacher_features import TeacherFeatures  # noqa: E402

LAYERS = {level: level for level in ("penultimate", "intermediate")}


def equal(first, second):
    assert first.keys() == second.keys()
    for level, one in first.items():
        np.testing.assert_allclose(one, second[level], rtol=1e-5, atol=1e-6)


x, y = small_images(33)
alone = small_teacher()
expected = {size: TeacherFeatures(alone, LAYERS)(x[:size]) for size in (1, 4, 33)}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    mirrored = small_teacher()
mirrored.set_weights(alone.get_weights())

shares = []
split = np.split
teacher_features.np.split = lambda array, parts: shares.append(parts) or split(array, parts)
built_under = TeacherFeatures(mirrored, LAYERS)
for size, features in expected.items():
    equal(built_under(x[:size]), features)
with strategy.scope():
    equal(TeacherFeatures(alone, LAYERS)(x), expected[33])
    within = TeacherFeatures(alone, {"penultimate": "penultimate"})
equal(within(x), {"penultimate": expected[33]["penultimate"]})
assert shares == [2] * 5, shares

one = fit_prototypes(alone, (x, y), **SIZES)
two = fit_prototypes(mirrored, (x, y), **SIZES)
np.testing.assert_allclose(one.penultimate.centers, two.penultimate.centers, rtol=1e-4, atol=1e-5)
assert two.manifest["data"]["images"] == 33
print("equal")
