import numpy as np
import pytest

from letkd_keras.data import jax_batches

jax = pytest.importorskip("jax")

PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # pixels as they are


def _images(count=20, size=6):
    r = np.random.default_rng(0)
    return r.integers(0, 256, (count, size, size, 3), dtype="uint8"), np.arange(count)


def _batches(epochs, batch_size=8, **options):
    batches = jax_batches.training_batches(
        *_images(), batch_size, epochs=epochs, **PLAIN, **options
    )
    return [(np.asarray(x), y) for x, y in batches]


def test_every_epoch_is_another_permutation_of_all_images():
    labels = [y for _, y in _batches(3, drop_remainder=False)]
    assert [len(y) for y in labels] == [8, 8, 4] * 3
    epochs = np.concatenate(labels).reshape(3, 20)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(20), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_step_depends_on_seed_epoch_and_step_alone():
    whole, late = _batches(3, seed=5), _batches(3, first_epoch=2, seed=5)
    for first, second in zip(whole[4:], late, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    other = _batches(3, seed=6)
    assert not np.array_equal(whole[0][1], other[0][1])
    # Not the same crops at every step either.
    first, second = (
        jax_batches.augment(np.tile(_images(1)[0], (8, 1, 1, 1)), jax.random.key(n), 2, True)
        for n in (0, 1)
    )
    assert not np.array_equal(first, second)


def test_each_image_keeps_its_label_and_is_a_crop_of_its_reflected_self():
    images, _ = _images()
    for x, y in _batches(2, crop_padding=2):
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
    for image in np.asarray(jax_batches.augment(images, jax.random.key(3), 1, True)):
        forms[image.tobytes()] += 1
    assert len(forms) == 18
    # 111 of each expected; five standard deviations.
    assert all(60 < count < 165 for count in forms.values())


def test_quarter_turns_by_hand_and_black_corners():
    image = np.arange(75, dtype="uint8").reshape(5, 5, 3)
    np.testing.assert_array_equal(jax_batches._rotated(image, np.pi / 2), np.rot90(image, 1))
    turned = jax_batches._rotated(np.full((9, 9, 3), 200, "uint8"), np.pi / 4)
    assert (turned[0, 0] == 0).all() and (turned[4, 4] == 200).all()


def test_rotation_stays_within_its_limit_and_goes_both_ways():
    image = np.zeros((101, 101, 1), "uint8")
    image[50] = 255
    images = np.tile(image, (200, 1, 1, 1))
    turned = np.asarray(jax_batches.augment(images, jax.random.key(1), 0, False, rotation=20))
    ends = np.array([np.flatnonzero(picture[:, 95, 0]).mean() - 50 for picture in turned])
    angles = np.degrees(np.arctan2(ends, 45))
    assert np.abs(angles).max() < 21
    assert angles.min() < -17 and angles.max() > 17 and abs(angles.mean()) < 3


def test_evaluation_is_in_order_and_repeatable():
    images, labels = _images()
    batches = jax_batches.evaluation_batches(images, labels, 8, **PLAIN)
    assert len(batches) == 3
    for _ in range(2):
        x, y = zip(*batches, strict=True)
        np.testing.assert_allclose(np.concatenate(x), images, atol=1e-3)
        np.testing.assert_array_equal(np.concatenate(y), labels)


def test_rows_are_the_indices_of_the_images():
    for x, y in jax_batches.training_batches(*_images(), 8, epochs=1, with_rows=True, **PLAIN):
        np.testing.assert_array_equal(x["row"], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 21}, "`batch_size` must be between 1 and the 20 training images"),
        ({"batch_size": 8, "policies": ("cutmix",)}, "`policies` need the TensorFlow backend"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jax_batches.training_batches(*_images(), **PLAIN, **options)


def test_the_last_partial_batch_is_left_out_by_default():
    assert [len(y) for _, y in _batches(2)] == [8] * 4
