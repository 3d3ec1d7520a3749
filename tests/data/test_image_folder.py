import logging
import os
import shutil

import numpy as np
import pytest
from image_trees import COLOURS, picture, write_tree
from PIL import Image, features

from letkd_keras.data import DataSpec, image_folder, load_image_folder
from letkd_keras.data.class_folders import find_images, image_suffixes, split_folders


def assert_colours_match(images, labels):
    means = images.reshape(len(images), -1, 3).mean(1)
    expected = np.array(list(COLOURS.values()))[labels]
    np.testing.assert_allclose(means, expected, atol=6)


def test_tree_is_split_by_class(tmp_path):
    data = load_image_folder(write_tree(tmp_path / "pets"), 8, test_fraction=0.4, seed=1)
    assert data.name == "pets"
    assert data.class_names == ("ant", "bee", "cat")
    assert data.image_shape == (8, 8, 3)
    assert np.bincount(data.y_train).tolist() == [3, 3, 3]
    assert np.bincount(data.y_test).tolist() == [2, 2, 2]
    assert_colours_match(data.x_train, data.y_train)
    assert_colours_match(data.x_test, data.y_test)
    together = np.concatenate([data.x_train, data.x_test])
    assert len({image.tobytes() for image in together}) == 15


@pytest.mark.parametrize("test_fraction", [0.01, 0.2, 0.85])
def test_a_small_class_has_training_and_test_images(test_fraction, tmp_path):
    tree = write_tree(tmp_path, images=20)
    for file in sorted((tree / "bee").iterdir())[2:]:
        file.unlink()
    data = load_image_folder(tree, 8, test_fraction=test_fraction)
    assert np.bincount(data.y_train)[1] == np.bincount(data.y_test)[1] == 1
    assert data.test_examples == max(3, round(test_fraction * 42))


def test_split_depends_on_the_seed_alone(tmp_path):
    tree = write_tree(tmp_path)
    first, again, other = (load_image_folder(tree, 8, seed=seed).x_test for seed in (0, 0, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    "train, name",
    [("train", "val"), ("train", "validation"), ("Train", "TEST"), ("training", "testing")],
)
def test_tree_that_comes_split(train, name, tmp_path):
    write_tree(tmp_path / train, images=4, suffix=".jpg")
    write_tree(tmp_path / name, images=2)
    data = load_image_folder(tmp_path, 8)
    assert (data.train_examples, data.test_examples) == (12, 6)
    assert_colours_match(data.x_train, data.y_train)
    assert_colours_match(data.x_test, data.y_test)
    assert name in data.split


def test_tree_with_validation_and_test_images(tmp_path, caplog):
    for name, images in (("train", 4), ("valid", 2), ("test", 3)):
        write_tree(tmp_path / name, images=images)
    data = load_image_folder(tmp_path, 8)
    assert [data.examples(split) for split in ("train", "validation", "test")] == [12, 6, 9]
    assert_colours_match(data.x_validation, data.y_validation)
    assert data.split == "as in the folders train, valid and test"
    assert "not used" not in caplog.text
    with pytest.raises(
        ValueError, match=r"has a validation split already\. Received: fraction=0\.2"
    ):
        data.hold_out(0.2)


def test_a_test_folder_without_class_folders_is_named(tmp_path, caplog):
    """As in contests, whose test images have no labels."""
    for name, images in (("train", 4), ("val", 2)):
        write_tree(tmp_path / name, images=images)
    (tmp_path / "test").mkdir()
    shutil.copy(next((tmp_path / "val").rglob("*.png")), tmp_path / "test")
    (tmp_path / "test" / ".ipynb_checkpoints").mkdir()
    data = load_image_folder(tmp_path, 8)
    assert not data.has_validation
    assert (data.train_examples, data.test_examples) == (12, 6)
    assert "/test has no class folders; it is not used" in caplog.text


def test_folders_beside_the_splits_are_named(tmp_path, caplog):
    for name in ("train", "val", "extra", "Train", ".hidden"):
        write_tree(tmp_path / name, images=2)
    assert split_folders(tmp_path) == {"train": tmp_path / "train", "test": tmp_path / "val"}
    assert load_image_folder(tmp_path, 8).split == "as in the folders train and val"
    assert ": folders beside train are not used: extra, Train" in caplog.text


def test_a_class_may_have_the_name_of_a_split(tmp_path, caplog):
    tree = write_tree(tmp_path / "tree", colours={"bus": (1, 1, 1), "train": (2, 2, 2)})
    assert load_image_folder(tree, 8).class_names == ("bus", "train")
    assert "not used" not in caplog.text
    (tree / "bus").rename(tree / "freight train")
    assert find_images(tree).class_names == ("freight train", "train")


def test_a_folder_of_training_images_alone_is_split(tmp_path):
    write_tree(tmp_path / "train")
    data = load_image_folder(tmp_path, 8)
    assert data.class_names == ("ant", "bee", "cat")
    assert (data.train_examples, data.test_examples) == (12, 3)


@pytest.mark.parametrize("names", [("Test", "val"), ("my_test_set", "train2017")])
def test_splits_are_no_classes(names, tmp_path):
    for name in names:
        write_tree(tmp_path / name, images=1)
    with pytest.raises(ValueError, match=f"beside one named val or test.* with {', '.join(names)}"):
        load_image_folder(tmp_path, 8)


def test_classes_that_differ_only_in_case_are_named(tmp_path, caplog):
    tree = write_tree(tmp_path, colours={"cat": (1, 1, 1), "Cat": (2, 2, 2)}, images=2)
    load_image_folder(tree, 8)
    assert "the classes Cat and cat differ only in case" in caplog.text


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize(
    ("names", "warned"),
    [
        (("0", "1", "10", "2"), True),
        (("00", "01", "02", "10"), False),
        (("1", "10", "2", "two"), False),
        (("1", "10", "100"), False),
    ],
)
def test_classes_that_are_numbers_in_another_order_are_named(
    names, warned, labels, tmp_path, caplog
):
    tree = write_tree(tmp_path / "tree", colours=dict.fromkeys(names, (9, 9, 9)), images=2)
    file = None
    if labels:
        rows = (f"{path.relative_to(tree)},{path.parent.name}" for path in tree.rglob("*.png"))
        file = tmp_path / "labels.csv"
        file.write_text("\n".join(["file,label", *rows]))
    assert load_image_folder(tree, 8, labels=file).class_names == names
    message = "the classes are in the order of texts, not of numbers: 0, 1, 10, 2"
    assert (message in caplog.text) == warned
    assert ("order of texts" in caplog.text) == warned


def test_batches_are_those_of_any_data_set(tmp_path):
    data = load_image_folder(write_tree(tmp_path), 8)
    images, _ = next(iter(data.training_batches(12, seed=0, epochs=1, crop_padding=1)))
    assert images.shape == (12, 8, 8, 3)
    np.testing.assert_allclose(np.mean(images, (0, 1, 2)), 0, atol=0.3)


def test_images_in_folders_below_a_class(tmp_path):
    tree = write_tree(tmp_path)
    (tree / "ant" / "more" / "deep").mkdir(parents=True)
    picture(COLOURS["ant"], seed=77).save(tree / "ant" / "more" / "deep" / "x.bmp")
    data = load_image_folder(tree, 8)
    assert data.train_examples + data.test_examples == 16


def test_other_files_are_ignored_and_counted(tmp_path, caplog):
    tree = write_tree(tmp_path)
    (tree / "readme.txt").write_text("x")
    (tree / "bee" / "labels.csv").write_text("x")
    (tree / "bee" / "photo.HEIC").write_text("x")
    (tree / "cat" / "photo.heic").write_text("x")
    (tree / "bee" / ".DS_Store").write_text("x")
    (tree / ".git").mkdir()
    with caplog.at_level(logging.WARNING, "letkd_keras"):
        data = load_image_folder(tree, 8)
    assert data.train_examples + data.test_examples == 15
    listed = ": 4 files that are not images were ignored: .heic (2), .txt (1), .csv (1)"
    assert listed in caplog.text


@pytest.mark.parametrize("suffix", [".jfif", ".jpe"])
def test_other_names_of_jpeg_files(suffix, tmp_path):
    tree = write_tree(tmp_path, suffix=".jpg")
    (tree / "ant" / "0.jpg").rename(tree / "ant" / f"0{suffix}")
    assert len(find_images(tree)) == 15


def test_links_in_a_circle_do_not_multiply_images(tmp_path, caplog):
    tree = write_tree(tmp_path / "tree")
    (tree / "ant" / "more").mkdir()
    picture(COLOURS["ant"], seed=77).save(tree / "ant" / "more" / "x.png")
    for link, target in (
        ("ant/loop", tree),  # the root: all images would be ants
        ("ant/more/up", tree / "ant"),
        ("ant/again", tree / "ant" / "more"),
        ("bee/ants", tree / "ant"),
        ("bee/self", tree / "bee" / "self"),
    ):
        (tree / link).symlink_to(target)
    with caplog.at_level(logging.WARNING, "letkd_keras"):
        files = find_images(tree)
    assert np.bincount(files.labels).tolist() == [6, 5, 5]
    assert caplog.text.count("already part of the tree") == 4
    assert "1 files that are not images were ignored" in caplog.text


def test_linked_folders_outside_are_followed_once(tmp_path):
    photos = write_tree(tmp_path / "photos")
    (tmp_path / "links").mkdir()
    for name in ("ant", "bee"):
        (tmp_path / "links" / name).symlink_to(photos / name)
    assert len(find_images(tmp_path / "links")) == 10
    (tmp_path / "links" / "cow").symlink_to(photos / "bee")
    with pytest.raises(ValueError, match=r"must be different folders. Received: .*cow.*bee"):
        find_images(tmp_path / "links")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_with_the_name_of_an_image_are_not_opened(tmp_path, caplog):
    tree = write_tree(tmp_path)
    os.mkfifo(tree / "ant" / "pipe.png")
    (tree / "bee" / "nowhere.png").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.WARNING, "letkd_keras"):
        data = load_image_folder(tree, 8)
    assert data.train_examples + data.test_examples == 15
    assert "2 files that are not images were ignored" in caplog.text


def test_avif_is_an_image_where_pillow_reads_it(tmp_path, monkeypatch):
    tree = write_tree(tmp_path)
    if ".avif" in image_suffixes():
        picture(COLOURS["ant"], (60, 50)).save(tree / "ant" / "x.avif")
        data = load_image_folder(tree, 8)
        assert data.train_examples + data.test_examples == 16
        assert_colours_match(data.x_train, data.y_train)
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".png": "PNG"})
    assert image_suffixes.__wrapped__() == {".png"}


def test_names_that_cannot_be_encoded(tmp_path):
    tree = write_tree(tmp_path)
    file = os.fsdecode(b"\xe4.png")
    picture(COLOURS["ant"]).save(tree / "ant" / file)
    assert len(find_images(tree).digest()) == 64
    (tree / "cat").rename(tree / os.fsdecode(b"c\xe4t"))
    with pytest.raises(ValueError, match=r"is valid UTF-8. Received: 'c\\udce4t'"):
        find_images(tree)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_the_name_of_the_data_must_be_utf8(tmp_path):
    tree = write_tree(tmp_path / os.fsdecode(b"fotos_\xe9"))
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(ValueError, match=r"`path` must have a name that is valid UTF-8"):
        load_image_folder(tmp_path / "link", 8)


@pytest.mark.parametrize("name", ["c\tt", "c\nt", "c  t", "cat ", "c\u2028t"])
def test_white_space_in_the_name_of_a_class(name, tmp_path):
    tree = write_tree(tmp_path)
    (tree / "cat").rename(tree / name)
    with pytest.raises(ValueError, match="without other white space than single spaces"):
        find_images(tree)


def test_digest_of_a_tree_does_not_depend_on_where_it_is(tmp_path):
    first = find_images(write_tree(tmp_path / "a")).digest()
    assert find_images(write_tree(tmp_path / "b")).digest() == first
    (tmp_path / "b" / "ant" / "0.png").rename(tmp_path / "b" / "ant" / "9.png")
    assert find_images(tmp_path / "b").digest() != first


def test_empty_class_is_named(tmp_path):
    tree = write_tree(tmp_path)
    (tree / "dog").mkdir()
    (tree / "dog" / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="dog' with none among 1 files"):
        load_image_folder(tree, 8)


def test_class_of_one_image_cannot_be_split(tmp_path):
    tree = write_tree(tmp_path)
    (tree / "dog").mkdir()
    picture((9, 9, 9)).save(tree / "dog" / "only.png")
    with pytest.raises(ValueError, match=r"two images to be split\. Received: 1 in class 'dog'"):
        load_image_folder(tree, 8)


@pytest.mark.parametrize("share, match", [(0.95, "one training image of"), (1.0, "less than 1")])
def test_share_of_test_images_out_of_range(share, match, tmp_path):
    with pytest.raises(ValueError, match=f"`test_fraction` must .*{match}"):
        load_image_folder(write_tree(tmp_path), 8, test_fraction=share)


def test_two_images_of_each_class_are_enough(tmp_path):
    data = load_image_folder(write_tree(tmp_path, images=2), 8)
    assert sorted(data.y_train) == sorted(data.y_test) == [0, 1, 2]
    assert data.split.startswith("0.5 of the images of each class are test images")


@pytest.mark.parametrize("size", ["32", 8.5, 7])
def test_sizes_out_of_range(size, tmp_path):
    with pytest.raises(ValueError, match="`image_size` must be an integer from 8 to 4096"):
        load_image_folder(write_tree(tmp_path), size)


@pytest.mark.parametrize("other", ["val", "test"])
def test_classes_of_training_and_other_images_differ(other, tmp_path):
    write_tree(tmp_path / "train")
    if other == "test":
        write_tree(tmp_path / "val")
    write_tree(tmp_path / other, colours={"ant": (1, 1, 1), "cow": (2, 2, 2)})
    message = (
        f"The folders train and {other} must have the same classes. "
        f"Received: only in train bee, cat; only in {other} cow"
    )
    with pytest.raises(ValueError, match=message):
        load_image_folder(tmp_path, 8)


def test_folder_that_is_not_there_or_has_no_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder of class folders"):
        load_image_folder(tmp_path / "none", 8)
    (tmp_path / "one").mkdir()
    with pytest.raises(ValueError, match="at least two classes"):
        load_image_folder(tmp_path, 8)


def damage(file, kind):
    content = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    else:
        file.write_text("<html>not found</html>")
    return file


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "no image"])
def test_corrupt_image_is_named(kind, suffix, tmp_path):
    tree = write_tree(tmp_path, suffix=suffix, size=(60, 50))
    file = damage(tree / "bee" / f"3{suffix}", kind)
    with pytest.raises(ValueError, match=r"is damaged or not an image.*--skip-corrupt") as error:
        load_image_folder(tree, 8)
    assert str(file) in str(error.value)


def test_damaged_avif_is_named_and_can_be_skipped(tmp_path):
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    tree = write_tree(tmp_path, suffix=".avif", size=(60, 50))
    file = tree / "bee" / "3.avif"
    file.write_bytes(file.read_bytes().replace(b"iloc", b"free"))
    with pytest.raises(ValueError, match=r"3\.avif' is damaged or not an image"):
        load_image_folder(tree, 8)
    data = load_image_folder(tree, 8, skip_corrupt=True)
    assert data.train_examples + data.test_examples == 14


def test_corrupt_images_are_skipped_when_asked(tmp_path, caplog):
    tree = write_tree(tmp_path)
    for name in ("bee/3.png", "cat/0.png"):
        damage(tree / name, "truncated")
    with caplog.at_level(logging.WARNING, "letkd_keras"):
        data = load_image_folder(tree, 8, skip_corrupt=True)
    assert data.train_examples + data.test_examples == 13
    assert_colours_match(data.x_train, data.y_train)
    assert_colours_match(data.x_test, data.y_test)
    assert "bee/3.png" in caplog.text and "cat/0.png" in caplog.text


def test_class_of_corrupt_images_only_is_named(tmp_path):
    tree = write_tree(tmp_path)
    for file in (tree / "bee").iterdir():
        damage(file, "empty")
    with pytest.raises(ValueError, match=r"readable training images\. Received: none in .*bee"):
        load_image_folder(tree, 8, skip_corrupt=True)


def test_a_split_of_corrupt_images_only_is_named(tmp_path):
    write_tree(tmp_path / "train")
    for file in write_tree(tmp_path / "test", images=1).rglob("*.png"):
        damage(file, "empty")
    with pytest.raises(ValueError, match=r"must be a readable test image\. Received: 3 that"):
        load_image_folder(tmp_path, 8, skip_corrupt=True)


def test_copies_of_training_images_among_the_others_are_counted(tmp_path, caplog):
    for name, seed in (("train", 0), ("val", 1), ("test", 2)):
        for label, colour in COLOURS.items():
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(2):
                image = picture(colour, seed=10 * seed + number)
                image.save(tmp_path / name / label / f"{number}.png")
        Image.new("RGB", (16, 16), "white").save(tmp_path / name / "ant" / "empty.png")
    load_image_folder(tmp_path, 8)
    assert not caplog.text
    shutil.copy(tmp_path / "train" / "ant" / "0.png", tmp_path / "test" / "ant" / "copy.png")
    load_image_folder(tmp_path, 8)
    assert f"{tmp_path}: 1 of the 8 test images are training images, too" in caplog.text
    assert "validation images" not in caplog.text


@pytest.mark.parametrize(("largest", "warns"), [(4095, True), (16383, True), (16384, False)])
def test_images_of_fewer_than_16_bits_in_16_are_warned_about(largest, warns, tmp_path, caplog):
    for name, pixel in (("ant", largest), ("bee", largest // 2)):
        (tmp_path / name).mkdir()
        for number in range(3):
            image = Image.fromarray(np.full((8, 8), pixel, "uint16"))
            image.save(tmp_path / name / f"{number}.png")
    assert load_image_folder(tmp_path, 8).x_train.max() == largest >> 8
    warning = f"the brightest pixel of the training images is {largest >> 8} of 255; of 16 bits"
    assert (warning in caplog.text) == ("brightest" in caplog.text) == warns


def test_statistics_are_measured_where_none_are_given(tmp_path):
    tree = write_tree(tmp_path)
    measured = load_image_folder(tree, 8)
    np.testing.assert_allclose(measured.mean, (measured.x_train / 255).mean((0, 1, 2)))
    given = load_image_folder(tree, 8, mean=np.zeros(3))
    assert given.mean == (0, 0, 0) and given.std == measured.std
    given = load_image_folder(tree, 8, std=np.ones(3))
    assert given.std == (1, 1, 1) and given.mean == measured.mean


def test_statistics_that_pixels_name_are_not_measured(tmp_path, monkeypatch):
    tree = write_tree(tmp_path)
    monkeypatch.setattr(image_folder, "pixel_statistics", lambda images: pytest.fail("measured"))
    data = DataSpec(str(tree), image_size=8, pixels="0..255").open()
    assert (data.mean, data.std) == ((0.0,) * 3, (1 / 255,) * 3)
