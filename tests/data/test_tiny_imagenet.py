import numpy as np
import pytest
from PIL import Image
from tiny_imagenet_tree import COLOURS, write_tiny_imagenet

from letkd_keras.data import load_tiny_imagenet
from letkd_keras.data.tiny_imagenet import validation_halves


def assert_colours_match(images, labels):
    colours = np.array([COLOURS[wnid] for wnid in sorted(COLOURS)])
    means = images.reshape(len(images), -1, 3).mean(1)
    np.testing.assert_allclose(means, colours[labels], atol=8)


@pytest.mark.parametrize("inside", [True, False])
def test_archive_is_read(inside, tmp_path):
    root = write_tiny_imagenet(tmp_path)
    data = load_tiny_imagenet(root if inside else tmp_path)
    assert data.x_train.shape == (18, 64, 64, 3) and data.x_test.shape == (12, 64, 64, 3)
    assert data.class_names == ("goldfish", "n01770393", "Egyptian cat")
    assert np.bincount(data.y_train).tolist() == [6, 6, 6]
    # of the published recipes
    assert (data.mean, data.std) == ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
    assert_colours_match(data.x_train, data.y_train)
    assert_colours_match(data.x_test, data.y_test)
    # val_0, val_1, ... val_11 by number, not by letters
    assert data.y_test.tolist() == [2, 0, 1] * 4


def test_halves_have_the_same_number_of_each_class(tmp_path):
    data = load_tiny_imagenet(write_tiny_imagenet(tmp_path))
    first = validation_halves(data.y_test)
    assert first.tolist() == [True] * 6 + [False] * 6
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(200), 50))
    first = validation_halves(labels)
    assert (np.bincount(labels[first]) == 25).all() and (np.bincount(labels[~first]) == 25).all()
    rows = np.flatnonzero(labels == 7)
    assert first[rows].tolist() == [True] * 25 + [False] * 25


def test_cache(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    plain = load_tiny_imagenet(root)
    cached = load_tiny_imagenet(root, image_cache=tmp_path / "cache")
    assert isinstance(cached.x_train, np.memmap)
    np.testing.assert_array_equal(cached.x_train, plain.x_train)
    np.testing.assert_array_equal(cached.x_test, plain.x_test)


def test_gray_images_become_rgb(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    Image.new("L", (64, 64), 100).save(root / "val" / "images" / "val_0.JPEG")
    assert (load_tiny_imagenet(root).x_test[0] == 100).all()


@pytest.mark.parametrize("part", ["wnids.txt", "val/val_annotations.txt"])
def test_missing_part_is_named(part, tmp_path):
    root = write_tiny_imagenet(tmp_path)
    (root / part).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no {part}"):
        load_tiny_imagenet(root)


def test_missing_and_damaged_images_are_named(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    (root / "val" / "images" / "val_3.JPEG").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"val_3\.JPEG' is damaged"):
        load_tiny_imagenet(root)
    (root / "val" / "images" / "val_3.JPEG").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 images that do not exist: .*val_3\.JPEG"):
        load_tiny_imagenet(root)
    for file in (root / "train" / "n01770393" / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="n01770393' with no images"):
        load_tiny_imagenet(root)


def test_annotation_of_another_class(tmp_path):
    root = write_tiny_imagenet(tmp_path)
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write("\n")
    load_tiny_imagenet(root)
    with (root / "val" / "val_annotations.txt").open("a") as file:
        file.write("val_99.JPEG\tn00000000\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match="val_99"):
        load_tiny_imagenet(root)
