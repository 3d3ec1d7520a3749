import numpy as np
from small_problem import small_images

from letkd_keras.prototypes.teacher_features import TeacherFeatures


def test_the_last_tap_alone_gives_the_same_features_and_runs_the_teacher_no_further(teacher):
    (x, _), both = small_images(8), TeacherFeatures(teacher(), ["penultimate", "intermediate"], 2)
    alone = both.last_tap()
    assert (alone.taps, alone.pools, alone.grids) == (("intermediate",), (2,), ((2, 2),))
    (features,) = alone(x)
    np.testing.assert_allclose(features, both(x)[1], rtol=1e-5, atol=1e-6)
    names = [layer.name for layer in alone.model.layers]
    assert "intermediate" in names and "penultimate" not in names
