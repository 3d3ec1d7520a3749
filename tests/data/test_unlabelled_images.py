"""Training images without labels, and a share of the labels."""

import os
from dataclasses import replace

import numpy as np
import pytest
from image_trees import COLOURS, picture, write_tree
from PIL import Image
from small_image_data import image_data

from letkd_keras.data import DataSpec
from letkd_keras.data.image_folder import load_unlabelled
from letkd_keras.data.npz import load_npz, save_npz

GREY, RED, BLUE = (120, 120, 120), (200, 30, 30), (30, 30, 200)


def test_a_share_of_the_labels_is_kept():
    data = image_data()
    few = data.keep_labels(0.25, seed=1)
    assert (few.train_examples, few.unlabelled_examples) == (60, 45)
    kept = few.y_train >= 0
    np.testing.assert_array_equal(few.y_train[kept], data.y_train[kept])
    assert np.bincount(few.y_train[kept]).tolist() == [3] * 5
    assert "15 training images have labels, 45 have none, seed 1" in few.split
    assert few.digest != data.digest
    np.testing.assert_array_equal(data.keep_labels(0.25, seed=1).y_train, few.y_train)
    with pytest.raises(ValueError, match=r"`fraction` must be greater than 0.*fraction=0.01 of 60"):
        data.keep_labels(0.01)


def test_labels_are_drawn_from_images_that_have_one():
    data = image_data().keep_labels(0.5)
    few = data.keep_labels(0.5, seed=1)
    assert (few.train_examples, few.unlabelled_examples) == (60, 45)
    assert few.split.endswith("15 training images have labels, 45 have none, seed 1")
    held = data.hold_out(1 / 3)
    assert np.bincount(held.y_validation).tolist() == [2] * 5
    assert (held.train_examples, held.unlabelled_examples) == (50, 30)


def test_images_with_labels_alone():
    data = image_data().keep_labels(0.25)
    alone = data.labelled()
    assert (alone.train_examples, alone.unlabelled_examples) == (15, 0)
    rows = np.flatnonzero(data.y_train >= 0)
    np.testing.assert_array_equal(alone.x_train, data.x_train[rows])
    repeated = data.labelled(repeat=True)
    assert repeated.train_examples == 60
    assert np.bincount(repeated.y_train).tolist() == [12] * 5
    np.testing.assert_array_equal(repeated.x_train[15:30], alone.x_train)
    assert image_data().labelled().train_examples == 60


def test_images_without_labels_are_added():
    data = image_data()
    images = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), "uint8")
    more = data.with_unlabelled(images, "more")
    assert (more.train_examples, more.unlabelled_examples) == (67, 7)
    np.testing.assert_array_equal(more.x_train[60:], images)
    assert more.y_train[60:].tolist() == [-1] * 7
    assert more.split.endswith("7 training images of more without labels")
    with pytest.raises(ValueError, match="`unlabelled` must have at least one image of shape"):
        data.with_unlabelled(images[:, :8], "more")
    with pytest.raises(ValueError, match="`y_test` must be from 0 to 4"):
        image_data(y_test=np.full(30, -1))
    with pytest.raises(ValueError, match="`y_train` must have at least one image with a label"):
        image_data(y_train=np.full(60, -1))


def test_batches_and_files_have_the_label_minus_one(tmp_path):
    data = image_data().keep_labels(0.25)
    batches = list(data.training_batches(20, epochs=1, crop_padding=0, flip=False))
    labels = np.concatenate([np.asarray(y) for _, y in batches])
    assert sorted(labels) == sorted(data.y_train)
    save_npz(data, tmp_path / "d.npz")
    assert load_npz(tmp_path / "d.npz").digest == data.digest


@pytest.fixture
def photos(tmp_path):
    """Images in folders that are no classes, one of them not an image."""
    for number in range(6):
        file = tmp_path / "more" / str(number % 2) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(file)
    (tmp_path / "more" / "notes.txt").write_text("x")
    return tmp_path / "more"


def test_the_options_select_both(photos, caplog):
    spec = DataSpec("digits", train_examples=100, labelled_fraction=0.2, unlabelled=str(photos))
    data = spec.open()
    assert (data.train_examples, data.unlabelled_examples) == (106, 86)
    assert data.x_train[-6:, 0, 0, 0].tolist() == [0, 80, 160, 40, 120, 200]
    assert "1 files that are not images were ignored" in caplog.text
    assert "belong to the data" not in caplog.text
    assert DataSpec.from_config(spec.config()) == spec


def test_damaged_images_without_labels_can_be_left_out(photos):
    (photos / "0" / "0.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"0\.png.*leave such files out with `skip_corrupt`"):
        DataSpec("digits", unlabelled=str(photos)).open()
    data = DataSpec("digits", unlabelled=str(photos), skip_corrupt=True).open()
    assert data.unlabelled_examples == 5
    with pytest.raises(ValueError, match="`skip_corrupt` applies only to a folder"):
        DataSpec("digits", skip_corrupt=True)


def test_what_does_not_fit_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="`unlabelled` must be an existing folder"):
        DataSpec("digits", unlabelled=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="`unlabelled` must be a folder with images"):
        DataSpec("digits", unlabelled=str(tmp_path / "empty")).open()
    with pytest.raises(ValueError, match="`labelled_fraction` must be a finite number"):
        DataSpec("digits", labelled_fraction=1.5)
    with pytest.raises(ValueError, match=r"`labelled_fraction` must be .*labelled_fraction=0.001"):
        DataSpec("digits", labelled_fraction=0.001).open()


def test_images_of_the_data_are_no_images_without_labels(tmp_path, caplog):
    for number, split in enumerate(("train", "val", "test")):
        colours = {name: np.array(COLOURS[name]) // (number + 1) for name in COLOURS}
        write_tree(tmp_path / "tvt" / split, images=2, colours=colours)
    tree = tmp_path / "tvt"
    Image.new("RGB", (12, 10)).save(tree / "train" / "ant" / "new.png")
    alone = DataSpec(str(tree), image_size=8).open()
    with pytest.raises(ValueError, match=r"whose images all belong to .* `labelled_fraction`"):
        DataSpec(str(tree), image_size=8, unlabelled=str(tree)).open()
    assert "19 images belong to the data already" in caplog.text
    # Whatever link leads to them.
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "link").symlink_to(tree / "test")
    Image.new("RGB", (12, 10), (0, 0, 9)).save(tmp_path / "more" / "x.png")
    more = DataSpec(str(tree), image_size=8, unlabelled=str(tmp_path / "more")).open()
    assert more.unlabelled_examples == 1
    assert more.train_examples == alone.train_examples + 1
    assert "6 images belong to the data already" in caplog.text
    # Those that a list of labels leaves out have none.
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "file,label\n"
        + "".join(f"{split}/{c}/0.png,{c}\n" for split in ("train", "val") for c in ("ant", "bee"))
    )
    spec = DataSpec(str(tree), image_size=8, labels=str(labels), unlabelled=str(tree / "test"))
    assert spec.open().unlabelled_examples == 6


@pytest.mark.parametrize("options", [{}, {"train_examples": 4, "test_examples": 2}])
def test_images_of_data_without_files_are_known_by_their_pixels(options, tmp_path, caplog):
    for split, images, colour in (("train", 2, GREY), ("val", 2, BLUE), ("test", 3, RED)):
        write_tree(tmp_path / "photos" / split, images, colours={"ant": colour, "bee": colour})
    save_npz(DataSpec(str(tmp_path / "photos"), image_size=8).open(), tmp_path / "photos.npz")
    # Copies under other names, in all splits; one image is new.
    for number, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        (tmp_path / "more").mkdir(exist_ok=True)
        (tmp_path / "more" / f"copy{number}.png").write_bytes(file.read_bytes())
    picture(RED, seed=99).save(tmp_path / "more" / "new.png")
    new = load_unlabelled(tmp_path / "more", (8, 8, 3))[-1]
    for source in ("photos.npz", "photos"):
        caplog.clear()
        size = None if source == "photos.npz" else 8
        spec = DataSpec(str(tmp_path / source), image_size=size, **options)
        data = replace(spec, unlabelled=str(tmp_path / "more")).open()
        assert data.unlabelled_examples == 1
        np.testing.assert_array_equal(data.x_train[-1], new)
        assert caplog.text.count("images belong to the data already") == 1
        assert "14 images belong to the data already" in caplog.text
    (tmp_path / "more" / "new.png").unlink()
    with pytest.raises(ValueError, match=r"`unlabelled` must be .*whose images all belong to"):
        replace(spec, unlabelled=str(tmp_path / "more")).open()


def test_the_name_of_images_without_labels_must_be_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"fotos_\xe9")
    folder.mkdir()
    Image.new("RGB", (12, 10)).save(folder / "x.png")
    with pytest.raises(ValueError, match="`unlabelled` must have a name that is valid UTF-8"):
        load_unlabelled(folder, (8, 8, 3))
