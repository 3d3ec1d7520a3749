import numpy as np
import pytest

from letkd_keras.data import ImageData


@pytest.fixture
def cifar100_noise(monkeypatch):
    """Noise of CIFAR-100's shape in place of the real images."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (800, 32, 32, 3), dtype="uint8")
    labels = np.arange(800) % 100
    names = tuple(map(str, range(100)))
    noise = ImageData(
        "cifar100",
        *(pixels[:600], labels[:600], pixels[600:], labels[600:]),
        *((0.5,) * 3, (0.25,) * 3, names),
    )
    monkeypatch.setattr("letkd_keras.data.loaders.load_cifar", lambda name, folder=None: noise)
    return noise
