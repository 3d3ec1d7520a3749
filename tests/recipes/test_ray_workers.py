import sys

import pytest

from letkd_keras.recipes import ray_workers


def test_ray_on_jax_is_refused():
    with pytest.raises(ValueError, match=r"trains on TensorFlow only.*KERAS_BACKEND=jax"):
        ray_workers.check("jax")


def test_ray_beside_tf_config_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="must not be ray where TF_CONFIG is set"):
        ray_workers.check("tensorflow")


def test_ray_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install \"letkd-keras\[ray\]\""):
        ray_workers.check("tensorflow")
