from importlib import metadata

import keras
import numpy as np

from letkd_keras.versions import versions


def test_by_default_of_what_computes():
    backend = keras.backend.backend()
    assert versions() == {
        "keras": keras.__version__,
        backend: metadata.version(backend),
        "numpy": np.__version__,
    }


def test_a_package_that_is_not_installed_has_none():
    assert versions(["no-such-package", "numpy"]) == {
        "no-such-package": None,
        "numpy": np.__version__,
    }
