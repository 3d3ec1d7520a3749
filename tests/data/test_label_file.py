import numpy as np
import pytest
from PIL import Image

from letkd_keras.data import DataSpec
from letkd_keras.data.image_folder import load_image_folder
from letkd_keras.data.label_file import read_labels


@pytest.fixture
def photos(tmp_path):
    """Ten images in two folders that are no classes; the color tells the number."""
    for number in range(10):
        file = tmp_path / "photos" / ("a", "b")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(file)
    return tmp_path / "photos"


def _write(path, rows, header="file,label"):
    path.write_text("\n".join([header, *rows, ""]))
    return path


def _rows(numbers=range(10)):
    labels = {n: ("dog", "cat")[n % 3 == 0] for n in numbers}
    return [f"{('a', 'b')[n % 2]}/{n}.png,{label}" for n, label in labels.items()]


def test_labels_of_a_file_are_the_classes(photos, tmp_path, caplog):
    caplog.set_level("INFO")
    labels = _write(tmp_path / "labels.csv", _rows(range(9)))
    data = load_image_folder(photos, 16, labels=labels, test_fraction=1 / 3)
    assert data.class_names == ("cat", "dog")
    assert (data.train_examples, data.test_examples) == (6, 3)
    assert f"{labels}: 9 images" in caplog.text
    for images, classes in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        numbers = images[:, 0, 0, 0] // 20
        np.testing.assert_array_equal(classes, np.where(numbers % 3 == 0, 0, 1))
    assert 9 not in data.x_train[:, 0, 0, 0] // 20
    _write(labels, reversed(_rows(range(9))))
    assert load_image_folder(photos, 16, labels=labels, test_fraction=1 / 3).digest == data.digest


def test_train_and_validation_folders_are_kept(photos, tmp_path, caplog):
    caplog.set_level("INFO")
    (photos / "a").rename(photos / "train")
    (photos / "b").rename(photos / "val")
    rows = [row.replace("a/", "train/").replace("b/", "val/") for row in _rows()]
    labels = _write(tmp_path / "labels.csv", rows)
    data = DataSpec(str(photos), image_size=16, labels=str(labels)).open()
    assert sorted(data.x_train[:, 0, 0, 0] // 20) == [0, 2, 4, 6, 8]
    assert data.split == "as in the folders train and val"
    assert f"{labels}: 5 train, 5 test images" in caplog.text
    Image.new("RGB", (16, 16)).save(photos / "outside.png")
    _write(labels, [*rows, "outside.png,cat"])
    with pytest.raises(ValueError, match=r"list files in train and val.*outside\.png"):
        DataSpec(str(photos), image_size=16, labels=str(labels)).open()


def test_each_folder_and_each_class_need_rows(photos, tmp_path):
    (photos / "a").rename(photos / "train")
    (photos / "b").rename(photos / "val")

    def refused(rows, message):
        labels = _write(tmp_path / "labels.csv", rows)
        with pytest.raises(ValueError, match=message):
            load_image_folder(photos, 16, labels=labels)

    train = [row.replace("a/", "train/") for row in _rows(range(0, 10, 2))]
    refused(train, r"`labels` must list files in train and in val.*labels\.csv' with none in val")
    refused(
        [*train, "val/1.png,bird"],
        r"`labels` must list a training image of each class.*labels\.csv' with none of 'bird'",
    )


def test_validation_images_of_their_own(photos, tmp_path, caplog):
    rows = {name: [f"{name}/{n}.png,{('cat', 'dog')[n % 2]}" for n in range(4)] for name in _NAMES}
    for name in _NAMES:
        (photos / name).mkdir()
        for number in range(4):
            Image.new("RGB", (16, 16)).save(photos / name / f"{number}.png")
    labels = _write(tmp_path / "labels.csv", [*rows["train"], *rows["val"][:3], *rows["test"]])
    data = load_image_folder(photos, 16, labels=labels)
    assert [data.examples(split) for split in ("train", "validation", "test")] == [4, 3, 4]
    assert data.split == "as in the folders train, val and test"
    assert not any("not used" in record.getMessage() for record in caplog.records)
    # The images of a contest: those of `test` have no labels.
    _write(labels, [*rows["train"], *rows["val"]])
    data = load_image_folder(photos, 16, labels=labels)
    assert not data.has_validation and data.test_examples == 4
    assert data.split == "as in the folders train and val"
    assert "has no images in" in caplog.text and "the validation images" in caplog.text


_NAMES = ("train", "val", "test")


def test_files_elsewhere_and_files_listed_twice_are_refused(photos, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "other.png")

    def refused(row, message):
        labels = _write(tmp_path / "labels.csv", [*_rows(), row])
        with pytest.raises(ValueError, match=message):
            load_image_folder(photos, 16, labels=labels)

    outside = rf"`labels` must list files below .*{photos.name}\. Received: '.*other\.png'"
    refused(f"{tmp_path / 'other.png'},cat", outside)
    refused("../other.png,cat", outside)
    refused("./a/0.png,dog", r"several rows for '.*a/0\.png' in '.*labels\.csv'")
    refused(f"{photos / 'a' / '0.png'},dog", r"several rows for '.*a/0\.png'")


def test_a_class_whose_images_are_all_damaged_is_named(photos, tmp_path):
    for number in range(0, 10, 3):  # the cats
        (photos / ("a", "b")[number % 2] / f"{number}.png").write_bytes(b"x")
    labels = _write(tmp_path / "labels.csv", _rows())
    with pytest.raises(ValueError, match=r"none of the class 'cat' of '.*labels\.csv'"):
        load_image_folder(photos, 16, labels=labels, skip_corrupt=True, test_fraction=0.3)


def test_semicolons_spaces_and_other_columns(tmp_path):
    text = "id;label ;file\n1;cat ; a.png\n2;dog;b, c.png\n"
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_labels(tmp_path / "l.csv") == {"a.png": "cat", "b, c.png": "dog"}


def test_white_space_within_a_label_is_one_space(tmp_path):
    (tmp_path / "l.csv").write_text('file,label\na.png,"big\ncat"\nb.png,big  cat\nc.png,a\tdog\n')
    expected = {"a.png": "big cat", "b.png": "big cat", "c.png": "a dog"}
    assert read_labels(tmp_path / "l.csv") == expected


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["a,b"], "name,class", "with the columns file and label.*columns name, class"),
        (["a.png,cat", "b.png,"], "file,label", "no label in line 3"),
        ([",cat"], "file,label", "no file in line 2"),
        (["a.png,cat", "b.png,dog", "a.png,dog"], "file,label", "second row for 'a.png' in line 4"),
        (["a.png,cat"], "file,label", "at least two classes.* with 1"),
        ([], "file,label", "at least two classes.* with 0"),
    ],
)
def test_what_is_wrong_is_said(rows, header, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_labels(_write(tmp_path / "labels.csv", rows, header))


def test_files_that_do_not_exist_are_counted(photos, tmp_path):
    labels = _write(tmp_path / "labels.csv", [*_rows(), "a/11.png,cat", "c.png,dog"])
    with pytest.raises(FileNotFoundError, match=r"2 files that do not exist.*a/11\.png"):
        load_image_folder(photos, 16, labels=labels)
    with pytest.raises(FileNotFoundError, match="`labels` must be an existing file"):
        DataSpec(str(photos), labels=str(tmp_path / "absent.csv"))
    with pytest.raises(ValueError, match="`labels` applies only to a folder"):
        DataSpec("digits", labels=str(labels))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00file,label")
    with pytest.raises(ValueError, match="must be a CSV file in UTF-8"):
        read_labels(tmp_path / "binary.csv")
