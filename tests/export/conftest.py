import json

import keras
import numpy as np
import pytest
from random_students import with_kd_layers
from small_image_data import image_data

from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.data import DataSpec
from letkd_keras.data.npz import save_npz


@pytest.fixture(autouse=True)
def same_weights_in_every_run():
    """Models with fresh weights are the same each time: int8 does not suit all of them."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def student():
    """A small student: resnet8 with 24 and 16 templates, 5 classes, images of 16x16."""
    return with_kd_layers("resnet8")


@pytest.fixture(scope="session")
def images():
    """Six images of noise, as the small student takes them."""
    return np.random.default_rng(1).standard_normal((6, 16, 16, 3)).astype("float32")


@pytest.fixture(scope="session")
def labels(student, images):
    """The classes that the small student gives these images."""
    return np.asarray(student(images)).argmax(-1)


@pytest.fixture
def data_file(tmp_path):
    """This data set as an `.npz` file."""
    save_npz(image_data(), tmp_path / "blocks.npz")
    return tmp_path / "blocks.npz"


@pytest.fixture
def run(tmp_path, data_file):
    """A run folder that exports letkd2; its files are not models, since none is loaded here."""
    spec = DataSpec(str(data_file), pixels="0..1", validation_fraction=0.25)
    data = spec.open()
    config = {
        "data": {**spec.config(), "name": data.name, "digest": data.digest},
        "export_method": "letkd2",
        "seed": 3,
    }
    folder = RunFolder(tmp_path / "run", config).path
    for method in ("kd", "letkd2"):
        (folder / method / "seed3").mkdir(parents=True)
        (folder / method / "seed3" / "student.keras").write_text("")
    (folder / "letkd2" / "seed3" / "result.json").write_text('{"epochs": 4}')
    return folder


@pytest.fixture
def sweep(tmp_path, data_file):
    """The folder of a sweep, without the file of its model."""
    spec = DataSpec(str(data_file))
    written = {
        "data": {**spec.config(), "digest": spec.open().digest},
        "training": {"run": "a"},
        "reduced": {"form": "reduced-4"},
    }
    (tmp_path / "sweep.json").write_text(json.dumps(written))
    return tmp_path
