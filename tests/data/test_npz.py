import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from letkd_keras.data import load_cifar, load_digits
from letkd_keras.data.npz_file import load_npz, save_npz


@pytest.fixture(scope="module")
def data():
    return load_digits().subset(40, 20)


def test_a_data_set_survives_a_file(data, tmp_path):
    for found in (data, data.hold_out(0.5)):
        save_npz(found, tmp_path / "images.npz")
        again = load_npz(tmp_path / "images.npz", "digits")
        for field in fields(found):
            before, after = getattr(found, field.name), getattr(again, field.name)
            assert type(before) is type(after)
            np.testing.assert_array_equal(before, after, err_msg=field.name)
            if isinstance(before, np.ndarray):
                assert before.dtype == after.dtype


def test_cifar_is_read_from_the_file_or_its_folder_without_tensorflow_datasets(
    data, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    save_npz(replace(data, name="cifar10"), tmp_path / "cifar10.npz")
    for place in (tmp_path, tmp_path / "cifar10.npz"):
        np.testing.assert_array_equal(load_cifar("cifar10", place).x_train, data.x_train)
    with pytest.raises(ValueError, match=r"must hold cifar100.*of cifar10"):
        load_cifar("cifar100", tmp_path / "cifar10.npz")
    with pytest.raises(ImportError, match=r"python -m letkd_keras.data"):
        load_cifar("cifar100", tmp_path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No file of images"):
        load_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("images")
    with pytest.raises(ValueError, match=r"must be a \.npz file"):
        load_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x_train=np.zeros(3))
    with pytest.raises(ValueError, match=r"without class_names, mean, name"):
        load_npz(tmp_path / "other.npz")
