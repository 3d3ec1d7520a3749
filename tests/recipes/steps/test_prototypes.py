from types import SimpleNamespace

import numpy as np

from letkd_keras.data import ImageData
from letkd_keras.recipes.steps import prototypes


def test_prototypes_are_fitted_with_every_setting_of_the_experiment(tmp_path, monkeypatch):
    calls = []

    def fit_prototypes(teacher, data, **options):
        calls.append((teacher, data, options))
        return SimpleNamespace(save=lambda file: file.write_text("prototypes"))

    monkeypatch.setattr(prototypes, "fit_prototypes", fit_prototypes)
    numbers = {
        "templates": 7,
        "subclasses": 3,
        "components": 5,
        "iterations": 11,
        "memory": 1234,
        "feature_cache": "float16",
        "seed": 13,
    }
    images = (np.zeros((6, 4, 4, 3), "uint8"), np.arange(6) % 2)
    data = ImageData("small", *images, *images, (0.5,) * 3, (0.25,) * 3, ("cat", "dog"))
    experiment = SimpleNamespace(
        data=data,
        teacher=SimpleNamespace(penultimate_layer="last", intermediate_layer="middle"),
        pool_sizes={"penultimate": 2, "intermediate": 4},
        **numbers,
    )
    expected = {
        **numbers,
        "levels": ("penultimate", "intermediate"),
        "penultimate_layer": "last",
        "intermediate_layer": "middle",
        "pool_size": {"penultimate": 2, "intermediate": 4},
        "data_name": f"small ({data.split})",
        "class_names": ("cat", "dog"),
        "workdir": tmp_path / "prototypes.work",
    }
    prototypes.prototypes_of(experiment, "teacher", tmp_path, expected["levels"])
    assert (tmp_path / "prototypes.npz").read_text() == "prototypes"
    (tmp_path / "prototypes.npz").unlink()
    prototypes.prototypes_of(experiment, "teacher", tmp_path, ("penultimate",))
    letkd1 = {
        "levels": ("penultimate",),
        "intermediate_layer": None,
        "pool_size": {"penultimate": 2},
    }
    assert [options for *_, options in calls] == [expected, {**expected, **letkd1}]
    teacher, batches, _ = calls[0]
    assert teacher == "teacher"
    assert (batches.data, batches.split) == (data, "train")
