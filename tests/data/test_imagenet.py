import io
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from image_trees import COLOURS, picture, write_tree
from PIL import Image

from letkd_keras.data import ImageData, StreamedImages, load_image_folder, load_imagenet


@pytest.fixture
def tree(tmp_path):
    write_tree(tmp_path / "made" / "train", images=7, suffix=".JPEG", size=(60, 50))
    write_tree(tmp_path / "made" / "val", images=3, suffix=".png", size=(50, 60))
    return tmp_path / "made"


def arrays(batches, data=None):
    x, y = zip(*((x.numpy(), y.numpy()) for x, y in batches), strict=True)
    x = np.concatenate(x)
    if data is not None:
        x = 255 * (x * np.array(data.std) + np.array(data.mean))
    return x, np.concatenate(y)


def assert_colours_match(images, labels):
    means = images.reshape(len(images), -1, 3).mean(1)
    np.testing.assert_allclose(means, np.array(list(COLOURS.values()))[labels], atol=8)


def test_folders_as_a_data_set(tree, caplog):
    for name in ("test", "extra"):
        (tree / name).mkdir()
    data = load_imagenet(str(tree), 32)
    assert ": folders beside train are not used: extra" in caplog.text
    assert (data.train_examples, data.test_examples) == (21, 9)
    assert data.class_names == ("ant", "bee", "cat") and data.num_classes == 3
    assert data.image_shape == (32, 32, 3) and data.name == "made"
    # of torchvision's recipes
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_streamed_images_have_the_attributes_of_images_in_memory():
    """What recipes rely on, besides the arrays themselves."""
    public = {name for name in dir(ImageData) if not name.startswith("_")}
    public |= set(ImageData.__dataclass_fields__)
    public -= {"x_train", "y_train", "x_test", "y_test"}
    public -= {"x_validation", "y_validation"}
    # Images without labels are refused for streamed data, before anything calls these.
    public -= {"with_unlabelled", "files", "keep_labels"}
    # So are few images for students.
    public -= {"few"}
    streamed = set(dir(StreamedImages)) | set(StreamedImages.__dataclass_fields__)
    assert public <= streamed


def test_streamed_images_all_have_labels(tree):
    data = load_imagenet(tree, 16)
    assert data.labelled() is data.labelled(repeat=True) is data
    assert data.unlabelled_examples == 0 and not data.in_memory


def test_an_epoch_has_every_image_once(tree):
    data = load_imagenet(tree, 16)
    batches = list(data.training_batches(8, epochs=1, drop_remainder=False))
    assert [len(y) for _, y in batches] == [8, 8, 5]
    images, labels = arrays(batches, data)
    assert np.bincount(labels).tolist() == [7, 7, 7]
    assert labels.tolist() != sorted(labels)
    assert_colours_match(images, labels)


def test_the_last_partial_batch_is_left_out_by_default(tree):
    batches = load_imagenet(tree, 16).training_batches(8, epochs=2)
    assert [len(y) for _, y in batches] == [8] * 4


def test_batches_depend_on_seed_and_epoch_alone(tree):
    data = load_imagenet(tree, 16)
    first, again, other = (
        arrays(data.training_batches(7, seed=seed, epochs=3)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()
    assert (first[0][:21] != first[0][21:42]).any()
    resumed = arrays(data.training_batches(7, seed=0, first_epoch=2, epochs=3))
    np.testing.assert_array_equal(resumed[0], first[0][42:])


def test_batches_without_end(tree):
    data = load_imagenet(tree, 16)
    assert len(list(data.training_batches(21).take(5))) == 5


@pytest.mark.parametrize("batch_size", [0, 22])
def test_batch_size_out_of_range(batch_size, tree):
    with pytest.raises(ValueError, match="between 1 and the 21 training images"):
        load_imagenet(tree, 16).training_batches(batch_size)


@pytest.fixture
def gradient(tmp_path):
    """Twenty copies of one image in which a pixel's red is its column, its green its row."""
    columns, rows = np.meshgrid(np.arange(200), np.arange(200))
    pixels = np.stack([columns, rows, np.full_like(rows, 128)], axis=-1).astype("uint8")
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(10):
                suffix = (".png", ".jpg")[number % 2]
                Image.fromarray(pixels).save(
                    tmp_path / split / name / f"{number}{suffix}", quality=100
                )
    return load_imagenet(tmp_path, 40)


def test_crops_are_of_the_area_and_aspect_asked_for(gradient):
    batches = gradient.training_batches(20, epochs=10, area=(0.2, 0.5), flip=False)
    images, _ = arrays(batches, gradient)
    # The red of the last column less that of the first is the width of the crop.
    width = (images[:, 20, -1, 0] - images[:, 20, 0, 0]) * 40 / 39
    height = (images[:, -1, 20, 1] - images[:, 0, 20, 1]) * 40 / 39
    area, aspect = width * height / 200**2, width / height
    assert area.min() > 0.17 and area.max() < 0.54
    assert area.min() < 0.25 and area.max() > 0.45  # the whole range is used
    assert aspect.min() > 0.7 and aspect.max() < 1.42 and aspect.std() > 0.1
    left = images[:, 20, 0, 0]
    assert left.std() > 10  # and the crops are anywhere


def test_crops_are_drawn_anew_in_every_epoch(gradient):
    images, _ = arrays(gradient.training_batches(20, epochs=2, flip=False), gradient)
    corners = images[:, 0, 0, :2]
    # The images are alike, so that only the draws tell the epochs, and the places in one, apart.
    assert (np.abs(corners[:20] - corners[20:]).max(axis=1) > 3).sum() > 15
    assert (np.abs(corners[1:20] - corners[:19]).max(axis=1) > 3).sum() > 15


def test_half_of_the_crops_are_mirrored(gradient):
    images, _ = arrays(gradient.training_batches(20, epochs=10), gradient)
    mirrored = images[:, 20, -1, 0] < images[:, 20, 0, 0]
    assert 0.4 < mirrored.mean() < 0.6
    images, _ = arrays(gradient.training_batches(20, epochs=1, flip=False), gradient)
    assert (images[:, 20, -1, 0] > images[:, 20, 0, 0]).all()


def test_evaluation_uses_the_center(gradient):
    images, labels = arrays(gradient.evaluation_batches(7), gradient)
    assert labels.tolist() == [0] * 10 + [1] * 10
    # 200 pixels become 46, of which the middle 40 are kept: from 3 to 43, 13.04 to 186.96 before.
    expected = (np.arange(40) + 3.5) * 200 / 46 - 0.5
    for image in images:
        np.testing.assert_allclose(image[20, :, 0], expected, atol=1.6)
        np.testing.assert_allclose(image[:, 20, 1], expected, atol=1.6)


def test_evaluation_batches(tree):
    data = load_imagenet(tree, 32)
    for split, count in (("test", 9), ("train", 21)):
        batches = data.evaluation_batches(4, split)
        assert batches.cardinality() == -(-count // 4)
        images, labels = arrays(batches, data)
        assert len(labels) == count and labels.tolist() == sorted(labels)
        assert_colours_match(images, labels)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        data.evaluation_batches(0)
    with pytest.raises(ValueError, match="`split` must be 'train' or 'test'"):
        data.evaluation_batches(4, "val")


def test_parts_of_batches_make_up_whole_ones(tree):
    data = load_imagenet(tree, 32)
    whole = list(data.training_batches(6, epochs=2, seed=4))
    parts = [
        list(data.training_batches(6, epochs=2, seed=4, part=(index, 2))) for index in range(2)
    ]
    assert len(whole) == 6
    for batch, first, second in zip(whole, *parts, strict=True):
        assert len(first[0]) == len(second[0]) == 3
        for array, *own in zip(batch, first, second, strict=True):
            np.testing.assert_array_equal(np.concatenate(own), array)


def test_parts_of_the_evaluation_have_every_image_once(tree):
    data = load_imagenet(tree, 32)
    expected, labels = arrays(data.evaluation_batches(9), data)
    for index in range(2):
        batches = data.evaluation_batches(2, part=(index, 2))
        assert batches.cardinality() == 3 - index
        images, own = arrays(batches, data)
        np.testing.assert_array_equal(own, labels[index::2])
        np.testing.assert_array_equal(images, expected[index::2])


def test_other_formats_and_channels(tmp_path):
    for split in ("train", "val"):
        write_tree(tmp_path / split, images=1)
        Image.new("L", (30, 20), 100).save(tmp_path / split / "ant" / "grey.png")
        Image.new("L", (30, 20), 100).save(tmp_path / split / "ant" / "grey.jpg")
        Image.new("RGBA", (30, 20), (100, 100, 100, 3)).save(tmp_path / split / "ant" / "rgba.png")
        Image.new("CMYK", (30, 20), (155, 155, 155, 0)).save(tmp_path / split / "ant" / "cmyk.jpg")
    data = load_imagenet(tmp_path, 16)
    for batches in (data.training_batches(7, epochs=1), data.evaluation_batches(7)):
        images, _ = arrays(batches, data)
        grey = np.abs(images - 100).max(axis=(1, 2, 3)) < 5
        assert grey.sum() == 4


def test_the_exif_orientation_is_ignored(tmp_path):
    """As torchvision's `ImageFolder` does, with which published accuracies were measured."""
    ramp = np.broadcast_to(np.arange(60, dtype="uint8")[:, None, None] * 4, (60, 60, 3))
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    trees = []
    for name, exif in (("plain", Image.Exif()), ("turned", upside_down)):
        for split in ("train", "val"):
            for label in ("ant", "bee"):
                folder = tmp_path / name / split / label
                folder.mkdir(parents=True)
                Image.fromarray(ramp).save(folder / "0.jpg", exif=exif)
        trees.append(load_imagenet(tmp_path / name, 32))
    for batches in (
        lambda data: data.evaluation_batches(2),
        lambda data: data.training_batches(2, epochs=1),
    ):
        plain, turned = (next(iter(batches(data)))[0] for data in trees)
        np.testing.assert_array_equal(plain, turned)
    folders = [load_image_folder(tmp_path / name, 32).x_test for name in ("plain", "turned")]
    assert np.abs(np.subtract(*map(np.float32, folders))).max() > 100


@pytest.mark.parametrize("suffix", [".jfif", ".jpe"])
def test_all_suffixes_of_jpeg_are_read(suffix, tmp_path):
    for split in ("train", "val"):
        for file in write_tree(tmp_path / split, images=2, suffix=".jpg").rglob("*.jpg"):
            file.rename(file.with_suffix(suffix))
    data = load_imagenet(tmp_path, 16)
    assert (data.train_examples, data.test_examples) == (6, 6)
    assert_colours_match(*arrays(data.evaluation_batches(6), data))


@pytest.mark.parametrize("size", [(50, 37), (30, 44), (9, 700)])
def test_the_whole_of_an_image_is_not_enlarged_in_evaluation(size, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), "uint8")
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    sides = [round(side * 48 / min(size)) for side in size]
    whole = tf.image.resize(pixels, sides, antialias=True)
    expected = tf.image.resize_with_crop_or_pad(whole, 42, 42)
    monkeypatch.setattr(tf.image, "resize", None)
    data = load_imagenet(tmp_path, 42)
    images, _ = arrays(data.evaluation_batches(2), data)
    np.testing.assert_allclose(images[0], expected, atol=0.51)


def test_subset_keeps_the_classes_in_proportion(tree):
    data = load_imagenet(tree, 16).subset(train_examples=6, test_examples=3, seed=1)
    assert (data.train_examples, data.test_examples) == (6, 3)
    assert np.bincount(arrays(data.training_batches(6, epochs=1))[1]).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="`train_examples` must be between 3"):
        load_imagenet(tree, 16).subset(train_examples=2)


def test_damaged_images_are_named(tree):
    data = load_imagenet(tree, 16)
    data.check()
    whole = (tree / "train" / "bee" / "2.JPEG").read_bytes()
    (tree / "train" / "bee" / "2.JPEG").write_bytes(whole[: len(whole) // 2])
    (tree / "val" / "cat" / "0.png").write_bytes(b"")
    (tree / "val" / "ant" / "1.png").write_text("no image")
    with pytest.raises(ValueError, match=r"^Files cannot be read: ") as error:
        data.check()
    for name in ("train/bee/2.JPEG", "val/cat/0.png", "val/ant/1.png"):
        assert str(tree / name) in str(error.value)
    assert str(error.value).count("/made/") == 3


def test_folders_of_other_classes_or_none(tree):
    (tree / "val" / "ant").rename(tree / "val" / "bug")
    with pytest.raises(ValueError, match="only in train ant; only in val bug"):
        load_imagenet(tree)
    (tree / "val" / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' with none"):
        load_imagenet(tree)


def test_folder_without_images_or_records(tmp_path):
    with pytest.raises(FileNotFoundError, match="imagenet2012 as prepared by"):
        load_imagenet(tmp_path)


def test_validation_split_of_files(tree):
    data = load_imagenet(tree, 16)
    held = data.hold_out(2 / 7, seed=1)
    assert (data.has_validation, held.has_validation) == (False, True)
    assert (held.train_examples, len(held.validation)) == (15, 6)
    files = [*held.train.files.files, *held.validation.files.files]
    assert sorted(files) == sorted(data.train.files.files)
    images, labels = arrays(held.evaluation_batches(4, "validation"), held)
    assert np.bincount(labels).tolist() == [2, 2, 2]
    assert_colours_match(images, labels)
    assert "6 training images held out for validation, seed 1" in held.split
    with pytest.raises(ValueError, match=r"only after hold_out"):
        data.evaluation_batches(4, "validation")


def test_first_classes_of_files(tree):
    few = load_imagenet(tree, 16).first_classes(2)
    assert few.class_names == ("ant", "bee") and few.name == "made, first 2 classes"
    assert (few.train_examples, few.test_examples) == (14, 6)
    assert set(arrays(few.evaluation_batches(4))[1]) == {0, 1}


def test_digest_is_of_names_sizes_and_labels(tree, tmp_path):
    digest = load_imagenet(tree).digest
    assert len(digest) == 64
    shutil.copytree(tree, tmp_path / "copy")
    assert load_imagenet(tmp_path / "copy").digest == digest
    with (tmp_path / "copy" / "val" / "ant" / "1.png").open("ab") as file:
        file.write(b"more")
    assert load_imagenet(tmp_path / "copy").digest != digest
    assert load_imagenet(tree).hold_out(2 / 7).digest != digest


def test_the_default_folder_is_that_of_tensorflow_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"Received: {str(tmp_path)!r}")):
        load_imagenet()


def test_prepared_tensorflow_dataset(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Imagenet2012(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("5.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=list(COLOURS)),
                "file_name": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples(8), "validation": self._generate_examples(4)}

        def _generate_examples(self, images):
            for label, (name, colour) in enumerate(COLOURS.items()):
                for number in range(images):
                    content = io.BytesIO()
                    picture(colour, (60, 50), number).save(content, "JPEG")
                    content.seek(0)
                    key = f"{name}{number}"
                    yield key, {"image": content, "label": label, "file_name": key}

    Imagenet2012(data_dir=tmp_path).download_and_prepare()
    data = load_imagenet(tmp_path, 32)
    assert data.name == "imagenet2012" and data.class_names == ("ant", "bee", "cat")
    assert (data.train_examples, data.test_examples) == (24, 12)
    images, labels = arrays(data.training_batches(8, epochs=1), data)
    assert np.bincount(labels).tolist() == [8, 8, 8]
    assert_colours_match(images, labels)
    images, labels = arrays(data.evaluation_batches(5), data)
    assert np.bincount(labels).tolist() == [4, 4, 4]
    assert_colours_match(images, labels)
