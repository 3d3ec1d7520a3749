import numpy as np
import pytest

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
        with pytest.raises(ValueError, match="`fraction` must be more than 0 and less than 1"):
            data.hold_out(fraction)


def test_rows_come_with_their_images(data):
    batches = data.training_batches(7, seed=3, epochs=1, crop_padding=0, flip=False, with_rows=True)
    rows = []
    for x, y in batches:
        np.testing.assert_allclose(x["image"][:, 0, 0, 0], x["row"], rtol=1e-5)
        np.testing.assert_array_equal(data.y_train[x["row"]], y)
        rows += list(x["row"].numpy())
    assert sorted(rows) == list(range(48)) != rows


def test_digits_can_be_held_out_of():
    held = load_digits().hold_out(0.1)
    assert held.train_examples + len(held.x_validation) == 1198
