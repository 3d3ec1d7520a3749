import numpy as np
import pytest

from letkd_keras.data import evaluation_batches, steps_per_epoch, training_batches
from letkd_keras.data.array_batches import augment

PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # pixels as they are


def _images(count=20, size=6):
    r = np.random.default_rng(0)
    return r.integers(0, 256, (count, size, size, 3), dtype="uint8"), np.arange(count)


def _epochs(epochs, first_epoch=0, batch_size=8, **options):
    x, y = _images()
    batches = training_batches(
        x, y, batch_size, first_epoch=first_epoch, epochs=epochs, **PLAIN, **options
    )
    return [(x.numpy(), y.numpy()) for x, y in batches]


def test_every_epoch_is_another_permutation_of_all_images():
    labels = [y for _, y in _epochs(3, drop_remainder=False)]
    assert [len(y) for y in labels] == [8, 8, 4] * 3
    epochs = np.concatenate(labels).reshape(3, 20)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(20), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_step_depends_on_seed_epoch_and_step_alone():
    whole, again, late = _epochs(3, seed=5), _epochs(3, seed=5), _epochs(3, first_epoch=2, seed=5)
    for first, second in [*zip(whole, again, strict=True), *zip(whole[4:], late, strict=True)]:
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(whole[0][1], _epochs(1, seed=6)[0][1])


def test_each_image_keeps_its_label_and_is_a_crop_of_its_reflected_self():
    images, _ = _images()
    for x, y in _epochs(2, crop_padding=2):
        for image, label in zip(x, y, strict=True):
            padded = np.pad(images[label], ((2, 2), (2, 2), (0, 0)), mode="reflect")
            crops = [padded[r : r + 6, c : c + 6] for r in range(5) for c in range(5)]
            near = [np.abs(image - c).max() < 1e-2 for c in (*crops, *(c[:, ::-1] for c in crops))]
            assert any(near)


def test_all_offsets_and_both_directions_are_drawn():
    images = np.arange(36, dtype="uint8").reshape(1, 6, 6, 1).repeat(2000, axis=0)
    padded = np.pad(images[0], ((1, 1), (1, 1), (0, 0)), mode="reflect")
    crops = [padded[r : r + 6, c : c + 6] for r in range(3) for c in range(3)]
    forms = {form.tobytes(): 0 for crop in crops for form in (crop, crop[:, ::-1])}
    for image in augment(images, (3, 4), crop_padding=1, flip=True).numpy():
        forms[image.tobytes()] += 1
    assert len(forms) == 18
    # 111 of each expected; five standard deviations.
    assert all(60 < count < 165 for count in forms.values())


def test_without_augmentation_the_images_are_only_normalized():
    images, labels = _images()
    options = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    batches = training_batches(images, labels, 8, crop_padding=0, flip=False, epochs=1, **options)
    for x, y in batches:
        expected = (images[y] / 255 - options["mean"]) / options["std"]
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [0, 21])
def test_batch_size_out_of_range_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"`batch_size` must be .*batch_size={batch_size}"):
        training_batches(*_images(), batch_size, **PLAIN)


def test_images_and_labels_that_do_not_fit_are_refused():
    images, labels = _images()
    with pytest.raises(ValueError, match=r"`images` must be uint8.*float32"):
        training_batches(images.astype("float32"), labels, 8, **PLAIN)
    with pytest.raises(ValueError, match=r"`labels` must be .*19 labels for 20"):
        training_batches(images, labels[1:], 8, **PLAIN)


def test_the_last_partial_batch_is_left_out_by_default():
    """As in the authors' program: of 20 images in batches of 8, each epoch has two batches."""
    assert [len(y) for _, y in _epochs(2)] == [8] * 4
    assert steps_per_epoch(20, 8) == 2 and steps_per_epoch(20, 8, drop_remainder=False) == 3
    first, second = (
        {*range(20)} - {*np.concatenate([y for _, y in _epochs(epoch + 1, first_epoch=epoch)])}
        for epoch in (0, 1)
    )
    assert len(first) == len(second) == 4 and first != second


def test_evaluation_keeps_the_last_partial_batch():
    batches = evaluation_batches(*_images(), 8, **PLAIN)
    assert [len(y) for _, y in batches] == [8, 8, 4]
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        evaluation_batches(*_images(), 0, **PLAIN)
