from dataclasses import replace

import numpy as np
import pytest

from letkd_keras import memory_mapped
from letkd_keras.data import ImageData, load_digits


@pytest.fixture(scope="module")
def data():
    """Images that are all of one value, their row."""
    labels = np.arange(60) % 6
    images = np.broadcast_to(np.arange(60, dtype="uint8")[:, None, None, None], (60, 2, 2, 3))
    return ImageData(
        *("rows", images[:48], labels[:48], images[48:], labels[48:]),
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        class_names=tuple("abcdef"),
        split="the first 48",
    )


def test_the_first_classes_are_a_data_set_of_their_own(data):
    few = data.first_classes(2)
    assert (few.num_classes, few.class_names) == (2, ("a", "b"))
    assert set(few.y_train) == set(few.y_test) == {0, 1}
    assert few.train_examples == 16 and few.test_examples == 4
    np.testing.assert_array_equal(few.x_train[:, 0, 0, 0] % 6, few.y_train)
    assert few.name == "rows, first 2 classes"
    for classes in (1, 7):
        with pytest.raises(ValueError, match="`classes` must be between 2 and 6"):
            data.first_classes(classes)


def test_what_is_held_out_is_no_longer_trained_on(data):
    held = data.hold_out(0.25, seed=1)
    train, validation = held.x_train[:, 0, 0, 0], held.x_validation[:, 0, 0, 0]
    assert sorted([*train, *validation]) == list(range(48))
    np.testing.assert_array_equal(np.bincount(held.y_validation), np.full(6, 2))
    np.testing.assert_array_equal(validation % 6, held.y_validation)
    np.testing.assert_array_equal(held.x_test, data.x_test)
    assert "12 training images held out for validation, seed 1" in held.split
    read = np.concatenate([x for x, _ in held.evaluation_batches(5, "validation")])
    np.testing.assert_allclose(read[:, 0, 0, 0], validation, rtol=1e-5)
    assert not np.array_equal(validation, data.hold_out(0.25, seed=2).x_validation[:, 0, 0, 0])


def test_without_a_validation_set_there_is_none_to_read(data):
    with pytest.raises(ValueError, match=r"`split` must be 'train' or 'test'. .*'validation'"):
        data.evaluation_batches(5, "validation")
    for fraction in (0, 0.05, 0.95, 1, -1):
        with pytest.raises(ValueError, match="`fraction` must be greater than 0 and less than 1"):
            data.hold_out(fraction)


def test_rows_come_with_their_images(data):
    batches = data.training_batches(
        7, seed=3, epochs=1, crop_padding=0, flip=False, with_rows=True, drop_remainder=False
    )
    rows = []
    for x, y in batches:
        np.testing.assert_allclose(x["image"][:, 0, 0, 0], x["row"], rtol=1e-5)
        np.testing.assert_array_equal(data.y_train[x["row"]], y)
        rows += list(x["row"].numpy())
    assert sorted(rows) == list(range(48)) != rows


def test_digits_can_be_held_out_of():
    held = load_digits().hold_out(0.1)
    assert held.train_examples + len(held.x_validation) == 1198


def test_digest_is_of_images_labels_and_names(data):
    digest = data.digest
    assert len(digest) == 64
    assert replace(data, mean=(0.5,) * 3, name="other", split="x").digest == digest
    changed = data.x_test.copy()
    changed[-1, 0, 0, 0] ^= 1
    others = [
        replace(data, x_test=changed),
        replace(data, y_train=np.roll(data.y_train, 1)),
        replace(data, class_names=tuple("abcdeg")),
        data.hold_out(0.25),
        data.subset(30),
    ]
    assert len({digest, *(other.digest for other in others)}) == 6


def test_digest_is_the_same_in_every_process_and_for_every_kind_of_array(data, tmp_path):
    for name in ("x_train", "y_train"):
        np.save(tmp_path / f"{name}.npy", getattr(data, name))
    mapped = replace(
        data,
        x_train=np.load(tmp_path / "x_train.npy", mmap_mode="r"),
        y_train=np.load(tmp_path / "y_train.npy").astype("int32"),
    )
    assert mapped.digest == data.digest
    # Of a process of its own: computed once and written down.
    small = ImageData(
        "two",
        *(np.arange(24, dtype="uint8").reshape(2, 2, 2, 3), np.array([0, 1])) * 2,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        class_names=("a", "b"),
    )
    assert small.digest.startswith("abb4fd5c96126e40")


def test_validation_images_keep_to_the_first_classes(data):
    few = data.hold_out(0.25).first_classes(2)
    assert few.has_validation and not data.has_validation
    assert set(few.y_validation) == {0, 1} and len(few.x_validation) == 4


@pytest.mark.parametrize("batch_size", [0, 49])
def test_batches_larger_than_the_training_set_are_refused(batch_size, data):
    with pytest.raises(ValueError, match="`batch_size` must be between 1 and the 48 training"):
        data.training_batches(batch_size)


def test_training_leaves_the_last_partial_batch_out_and_evaluation_does_not(data):
    assert [len(y) for _, y in data.training_batches(7, epochs=1, crop_padding=0)] == [7] * 6
    assert [len(y) for _, y in data.evaluation_batches(7)] == [7, 5]


@pytest.mark.parametrize("crop_padding", [2, -1])
def test_padding_that_reflection_cannot_fill_is_refused(crop_padding, data):
    with pytest.raises(ValueError, match=rf"`crop_padding` .*2x2.*crop_padding={crop_padding}"):
        data.training_batches(7, crop_padding=crop_padding)


@pytest.mark.parametrize("kind", ["uint8", "list"])
def test_labels_become_int64(kind, data):
    labels = data.y_train.tolist() if kind == "list" else data.y_train.astype(kind)
    few = replace(data, y_train=labels).keep_labels(0.5).subset(20)
    assert few.y_train.dtype == "int64" and few.y_train.min() == -1
    with pytest.raises(ValueError, match=r"`y_train` must be integers, .*: float64"):
        replace(data, y_train=data.y_train + 0.5)


def test_labels_out_of_range_are_refused(data):
    with pytest.raises(ValueError, match=r"`y_test` must be from 0 to 5.*from 6 to 6"):
        replace(data, y_test=np.full(12, 6))


@pytest.fixture
def mapped(data, tmp_path):
    """The same images by class, in a file."""
    rows = np.argsort(data.y_train, kind="stable")
    np.save(tmp_path / "x.npy", data.x_train[rows])
    images = np.load(tmp_path / "x.npy", mmap_mode="r")
    return replace(data, x_train=images, y_train=data.y_train[rows])


def test_selected_images_of_a_file_are_copied_only_where_they_are_spread(mapped):
    assert isinstance(mapped.first_classes(3).x_train, np.memmap)
    held = mapped.hold_out(0.25)
    assert not isinstance(held.x_train, np.memmap)
    in_memory = replace(mapped, x_train=np.array(mapped.x_train))
    for select in (
        lambda d: d.first_classes(3),
        lambda d: d.hold_out(0.25),
        lambda d: d.subset(30),
    ):
        assert select(mapped).digest == select(in_memory).digest


@pytest.mark.parametrize(
    ("argument", "select"),
    [
        ("train_examples", lambda data: data.subset(30)),
        ("fraction", lambda data: data.hold_out(0.25)),
        ("labelled_fraction", lambda data: data.keep_labels(0.5).labelled()),
        ("unlabelled", lambda data: data.with_unlabelled(data.x_test, "more")),
    ],
)
def test_images_of_a_file_that_do_not_fit_into_memory_are_refused(
    argument, select, mapped, monkeypatch
):
    monkeypatch.setattr(memory_mapped, "physical_memory", lambda: 200)
    with pytest.raises(ValueError, match=rf"`{argument}` copies .* `image_cache`.*there are 200\."):
        select(mapped)
    select(replace(mapped, x_train=np.array(mapped.x_train)))


def test_an_error_of_images_in_memory_is_no_damaged_file(data, caplog):
    class DataLossError(Exception):
        pass

    with pytest.raises(DataLossError), data.broken_files_named():
        raise DataLossError
    assert not caplog.records
