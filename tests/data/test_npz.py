import runpy
import struct
import sys
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest
from encrypted_zip import encrypt
from image_trees import write_tree

from letkd_keras import memory_mapped
from letkd_keras.data import DataSpec, ImageData, load_digits
from letkd_keras.data.npz import load_npz, save_npz


@pytest.fixture(scope="module")
def data():
    return load_digits(8).subset(40, 20)


@pytest.fixture
def values(data):
    """The arrays of a file, to be changed and written by `np.savez`."""
    names = [field.name for field in fields(ImageData)]
    return {name: getattr(data, name) for name in names if getattr(data, name) is not None}


def test_a_data_set_survives_a_file(data, tmp_path):
    for original in (data, data.hold_out(0.5)):
        save_npz(original, tmp_path / "images.npz")
        again = load_npz(tmp_path / "images.npz")
        for field in fields(original):
            before, after = getattr(original, field.name), getattr(again, field.name)
            assert type(before) is type(after)
            np.testing.assert_array_equal(before, after, err_msg=field.name)
            if isinstance(before, np.ndarray):
                assert before.dtype == after.dtype
        assert again.digest == original.digest


def test_a_file_has_the_key_of_its_data_set(data, tmp_path):
    save_npz(data, tmp_path / "images.npz", dataset="digits")
    assert DataSpec(tmp_path / "images.npz").dataset == "digits"
    assert load_npz(tmp_path / "images.npz").digest == data.digest
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "images.npz").read_bytes()[:-30])
    assert DataSpec(tmp_path / "damaged.npz").dataset == "npz"
    np.savez(tmp_path / "number.npz", dataset=3)
    assert DataSpec(tmp_path / "number.npz").dataset == "npz"


def test_every_command_reads_the_file(data, tmp_path):
    save_npz(data, tmp_path / "images.npz")
    spec = DataSpec(tmp_path / "images.npz", train_examples=20, pixels="0..1")
    assert spec.dataset == "npz"
    again = spec.open()
    assert (again.train_examples, again.test_examples, again.std) == (20, 20, (1.0,) * 3)


def test_photos_of_several_sizes_are_written_at_one(tmp_path, monkeypatch, capsys):
    for number, side in enumerate((9, 20, 33)):
        write_tree(tmp_path / "photos" / f"{number}", images=2, size=(side, 40))
    command = ["data", "--data", str(tmp_path / "photos"), "--image-size", "16"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "photos.npz")])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("letkd_keras.data", run_name="__main__")
    assert not ended.value.code
    assert load_npz(tmp_path / "photos.npz").image_shape == (16, 16, 3)
    assert "photos.npz: photos, 14 training and 4 test images" in capsys.readouterr().out


def test_after_an_interruption_nothing_is_said_to_continue(tmp_path, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(DataSpec, "open", interrupted)
    monkeypatch.setattr(
        sys, "argv", ["data", "--data", "digits", "--out", str(tmp_path / "digits.npz")]
    )
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("letkd_keras.data", run_name="__main__")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted; repeat the command\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((40, 8, 8, 3))}, "`x_train` must be uint8 .*float64"),
        ({"x_train": np.zeros((40, 8, 3), "uint8")}, r"`x_train` must be uint8 \[N, H, W, C\]"),
        ({"x_test": np.zeros((20, 9, 8, 3), "uint8")}, "`x_test` .* of shape .8, 8, 3."),
        ({"x_train": np.zeros((0, 8, 8, 3), "uint8")}, "`x_train` must have at least one image"),
        ({"y_train": np.zeros(39, int)}, "`y_train` must be integers, one for each of the 40"),
        ({"y_train": np.zeros((40, 1), int)}, "`y_train` must be integers, one for each"),
        ({"y_test": np.full(20, np.nan)}, "`y_test` must be integers.*float64"),
        ({"y_test": np.full(20, 0.5)}, "`y_test` must be integers.*float64"),
        ({"y_train": np.full(40, -2)}, "`y_train` must be from 0 to 9.*from -2 to -2"),
        ({"y_train": np.full(40, -1)}, "`y_train` must have at least one image with a label"),
        ({"y_test": np.full(20, -1)}, "`y_test` must be from 0 to 9, for"),
        ({"y_train": np.full(40, 10)}, "`y_train` must be from 0 to 9.*from 10 to 10"),
        ({"y_train": np.full(40, 2**64 - 1, "uint64")}, "`y_train` must be from 0 to 9"),
        ({"std": (1.0, 0.0, 1.0)}, "`std` must be finite numbers greater than 0"),
        ({"std": (1.0, np.inf, 1.0)}, "`std` must be finite numbers greater than 0"),
        ({"std": (1.0, 1.0)}, "`std` must .* for each of the 3 channels"),
        ({"mean": (0.0, np.nan, 0.0)}, "`mean` must be finite numbers"),
        ({"mean": ("a", "b", "c")}, "`mean` must be a list of numbers"),
        ({"mean": 0.0}, "`mean` must be a list of numbers"),
        ({"class_names": ("a",)}, "`class_names` must name at least two classes"),
        ({"class_names": (1, 2)}, "`class_names` must be a list of texts"),
        ({"name": 3}, "`name` must be a text"),
        ({"x_validation": np.zeros((2, 8, 8, 3), "uint8")}, "must be given together"),
    ],
)
def test_wrong_content_is_named(changes, message, values, tmp_path):
    path = tmp_path / "wrong.npz"
    np.savez(path, **{**values, **changes})
    with pytest.raises(ValueError, match=message) as error:
        load_npz(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_pickles_are_not_executed(values, tmp_path):
    np.savez(tmp_path / "p.npz", **{**values, "class_names": np.array([print, len], object)})
    with pytest.raises(ValueError, match="`class_names` must be numbers or texts"):
        load_npz(tmp_path / "p.npz")


def test_missing_arrays_are_listed(values, tmp_path):
    np.savez(tmp_path / "other.npz", x_train=values["x_train"])
    with pytest.raises(ValueError, match="a file without class_names, mean, name, split, std"):
        load_npz(tmp_path / "other.npz")


def test_files_that_are_not_npz(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"existing \.npz file"):
        load_npz(tmp_path / "none.npz")
    for content in (b"", b"images", b"\x93NUMPY"):
        (tmp_path / "text.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a whole \.npz file"):
            load_npz(tmp_path / "text.npz")


def test_damaged_files_are_refused(data, tmp_path):
    path = tmp_path / "x.npz"
    save_npz(data, path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"x\.npz: "):
        load_npz(path)
    for position in generator.integers(0, len(whole), 40):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            again = load_npz(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
        else:  # a bit of the archive that says nothing of the arrays
            assert again.digest == data.digest


def header(shape, dtype="|u1"):
    text = repr({"descr": dtype, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize("shape", [(10**12, 8, 8, 3), (2**62, 4, 1, 1), (-1, 8, 8, 3), (10,)])
def test_declared_sizes_are_checked_before_reading(shape, values, tmp_path):
    path = tmp_path / "huge.npz"
    np.savez(path, **{name: value for name, value in values.items() if name != "x_train"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header(shape))
    with pytest.raises(ValueError, match="`x_train` must"):
        load_npz(path)


def test_more_than_the_memory_is_refused(data, tmp_path, monkeypatch):
    save_npz(data, tmp_path / "x.npz")
    monkeypatch.setattr(memory_mapped, "physical_memory", lambda: 1000)
    with pytest.raises(ValueError, match="must fit into the memory of 1,000 bytes"):
        load_npz(tmp_path / "x.npz")


def test_an_encrypted_file_is_refused(data, tmp_path):
    path = tmp_path / "x.npz"
    save_npz(data, path)
    encrypt(path)
    with pytest.raises(ValueError, match=r"x\.npz: The file must be a whole \.npz.*is encrypted"):
        DataSpec(path).open()
    assert DataSpec(path).dataset == "npz"


def test_class_names_that_are_numbers_become_texts(data, tmp_path):
    numbers = tuple(range(data.num_classes))
    save_npz(replace(data, class_names=numbers), tmp_path / "x.npz")
    assert load_npz(tmp_path / "x.npz").class_names == tuple(map(str, numbers))


def test_streamed_data_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="`data` must be a data set in memory"):
        save_npz(type("Streamed", (), {"name": "imagenet"})(), tmp_path / "x.npz")
