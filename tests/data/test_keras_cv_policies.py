import importlib
import sys

import keras
import numpy as np
import pytest

from letkd_keras import IntermediateTargets
from letkd_keras.data import load_digits
from letkd_keras.data.keras_cv_policies import check, keras_cv_policies, mixes_labels

GREYS = np.array([40, 200], dtype="uint8")
IMAGES = np.broadcast_to(GREYS[:, None, None, None], (2, 16, 16, 3)).copy()
LABELS = np.array([0, 2])


@pytest.fixture
def keras_cv():
    return pytest.importorskip("keras_cv")


def _mixed(name):
    """Draws in which the two images are mixed, with the share of each image's own label."""
    policy = keras_cv_policies([name], num_classes=3)
    keras.utils.set_random_seed(0)
    for _ in range(20):
        images, labels = (np.asarray(array) for array in policy(IMAGES, LABELS))
        yield from zip(images, labels, LABELS, GREYS, GREYS[::-1], strict=True)


def test_mixup_mixes_pixels_as_it_mixes_labels(keras_cv):
    shares = []
    for image, label, own, grey, other in _mixed("mixup"):
        assert label.sum() == pytest.approx(1) and label[1] == 0
        np.testing.assert_allclose(image, label[own] * grey + (1 - label[own]) * other, rtol=1e-4)
        shares.append(label[own])
    assert min(shares) < 0.9


def test_cutmix_gives_labels_the_areas_of_their_images(keras_cv):
    """Exactly where the rectangle lies inside; keras-cv does not count what the border cuts off."""
    shares, exact = [], 0
    for image, label, own, grey, other in _mixed("cutmix"):
        assert set(np.unique(image)) <= {grey, other}
        area = np.mean(image == grey)
        assert area >= label[own] - 1e-6
        exact += area == pytest.approx(label[own], abs=1e-6)
        shares.append(label[own])
    assert min(shares) < 0.9
    assert exact >= 5


def test_randaugment_keeps_labels_and_range(keras_cv):
    images, labels = keras_cv_policies(["randaugment"], num_classes=3)(IMAGES, LABELS)
    assert (np.asarray(images).min(), np.asarray(images).max()) >= (0, 0)
    assert np.asarray(images).max() <= 255
    np.testing.assert_array_equal(labels, LABELS)


def test_training_batches_are_normalized_after_the_policy(keras_cv):
    data = load_digits().subset(64)
    x, y = next(iter(data.training_batches(32, policies=["cutmix", "mixup"], epochs=1)))
    assert y.shape == (32, 10)
    np.testing.assert_allclose(np.sum(y, axis=-1), 1, rtol=1e-5)
    low, high = ((level - np.array(data.mean)) / np.array(data.std) for level in (0, 1))
    assert np.all(x >= low.min() - 1e-5) and np.all(x <= high.max() + 1e-5)


def test_the_intermediate_target_is_that_of_the_stronger_label():
    targets = IntermediateTargets(num_classes=3, subclasses=2, components=2)
    targets.build((None, 2, 2, 4))
    generator = np.random.default_rng(0)
    for weight in targets.weights:
        weight.assign(generator.normal(size=weight.shape))
    features = generator.normal(size=(2, 2, 2, 4)).astype("float32")
    mixed = np.array([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7]], dtype="float32")
    np.testing.assert_array_equal(targets(features, mixed), targets(features, np.array([0, 2])))


@pytest.mark.parametrize(
    ("policies", "mixed"),
    [(("randaugment",), False), (("cutmix",), True), (("randaugment", "mixup"), True), ((), False)],
)
def test_which_policies_mix_labels(policies, mixed):
    assert mixes_labels({"flip": True, "policies": policies}) is mixed


def test_unknown_policies_are_refused():
    with pytest.raises(ValueError, match=r"names of randaugment.*'mixupp'. Did you mean mixup\?"):
        keras_cv_policies(["mixupp"], 3)


def test_without_keras_cv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ImportError, match=r"pip install 'letkd-keras\[augment\]'"):
        keras_cv_policies(["mixup"], 3)


def test_policies_are_refused_on_another_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"need the TensorFlow backend.*KERAS_BACKEND=jax"):
        check("cutmix")


def test_policies_are_refused_in_deterministic_mode(monkeypatch):
    config = importlib.import_module("tensorflow.python.framework.config")
    monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: True)
    with pytest.raises(ValueError, match=r"left out in .* mode .*Received: 'randaugment'"):
        check("randaugment")
