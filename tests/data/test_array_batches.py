import numpy as np
import pytest

from letkd_keras.data import array_batches, evaluation_batches, training_batches
from letkd_keras.data.array_batches import augment

STATISTICS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}


@pytest.fixture
def problem():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (21, 8, 8, 3), dtype="uint8")
    return images, generator.integers(0, 3, 21)


def arrays(batches):
    x, y = zip(*((x.numpy(), y.numpy()) for x, y in batches), strict=True)
    return np.concatenate(x), np.concatenate(y)


def memory_mapped(images, folder):
    np.save(folder / "images.npy", images)
    return np.load(folder / "images.npy", mmap_mode="r")


@pytest.mark.parametrize("large", [True, False])
def test_batches_read_from_disk_are_those_of_memory(large, problem, tmp_path, monkeypatch):
    images, labels = problem
    expected = [
        arrays(training_batches(images, labels, 4, **STATISTICS, seed=3, epochs=2)),
        arrays(evaluation_batches(images, labels, 4, **STATISTICS)),
    ]
    if large:
        monkeypatch.setattr(array_batches, "_COPIED_BYTES", images.nbytes - 1)
    else:
        images = memory_mapped(images, tmp_path)
    read = [
        arrays(training_batches(images, labels, 4, **STATISTICS, seed=3, epochs=2)),
        arrays(evaluation_batches(images, labels, 4, **STATISTICS)),
    ]
    for (x, y), (expected_x, expected_y) in zip(read, expected, strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)


def test_batches_from_disk_have_a_known_shape(problem, tmp_path):
    images, labels = problem
    batches = evaluation_batches(memory_mapped(images, tmp_path), labels, 4, **STATISTICS)
    assert batches.element_spec[0].shape.as_list() == [None, 8, 8, 3]
    assert batches.cardinality() == 6


def test_evaluation_batches_are_in_order(problem):
    images, labels = problem
    x, y = arrays(evaluation_batches(images, labels, 4, **STATISTICS))
    np.testing.assert_allclose(x, images, atol=1e-3)
    np.testing.assert_array_equal(y, labels)


def rotated(image, degrees, monkeypatch=None):
    """One image rotated by exactly so many degrees, by drawing the upper limit."""
    import tensorflow as tf

    with pytest.MonkeyPatch.context() as patch:
        draw = lambda shape, seed, minval, maxval: tf.fill(shape, maxval)  # noqa: E731
        patch.setattr(tf.random, "stateless_uniform", draw)
        return array_batches._rotate(tf.constant(image[None]), [0, 0], degrees)[0].numpy()


@pytest.mark.parametrize("shape", [(5, 5, 3), (6, 6, 1)])
def test_quarter_turn_by_hand(shape):
    image = np.arange(np.prod(shape), dtype="uint8").reshape(shape)
    # An image's y axis points down: a positive angle of the rows' mathematics turns to the left.
    np.testing.assert_array_equal(rotated(image, 90), np.rot90(image, 1))
    np.testing.assert_array_equal(rotated(image, 180), np.rot90(image, 2))


def test_rotation_fills_with_black_and_keeps_the_center():
    turned = rotated(np.full((9, 9, 3), 200, "uint8"), 45)
    assert (turned[0, 0] == 0).all() and (turned[4, 4] == 200).all()


def test_rotation_stays_within_its_limit_and_goes_both_ways():
    # A horizontal line through the center: its right end shows the angle.
    image = np.zeros((101, 101, 1), "uint8")
    image[50] = 255
    turned = augment(np.tile(image, (200, 1, 1, 1)), (1, 2), 0, False, rotation=20).numpy()
    ends = np.array([np.flatnonzero(picture[:, 95, 0]).mean() - 50 for picture in turned])
    angles = np.degrees(np.arctan2(ends, 45))
    assert np.abs(angles).max() < 21
    assert angles.min() < -17 and angles.max() > 17 and abs(angles.mean()) < 3


def test_rotation_depends_on_the_seed_alone(problem):
    images, labels = problem
    options = {**STATISTICS, "rotation": 20, "crop_padding": 0, "epochs": 3}
    first, again, other = (
        arrays(training_batches(images, labels, 8, seed=seed, **options))[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    resumed = arrays(training_batches(images, labels, 8, seed=0, first_epoch=1, **options))[0]
    np.testing.assert_array_equal(resumed, first[16:])


@pytest.mark.parametrize("options", [{}, {"rotation": 20.0, "with_rows": True}])
def test_parts_of_training_batches_make_up_whole_ones(options, problem):
    def batches(**part):
        made = training_batches(
            *problem, 6, **STATISTICS, seed=3, crop_padding=2, epochs=2, **options, **part
        )
        return [(x["image"], x["row"], y) if options else (x, y) for x, y in made]

    whole, *parts = batches(), *(batches(part=(index, 3)) for index in range(3))
    assert len(whole) == 6
    for batch, *shares in zip(whole, *parts, strict=True):
        assert all(len(share[0]) == 2 for share in shares)
        for array, *own in zip(batch, *shares, strict=True):
            np.testing.assert_array_equal(np.concatenate(own), array)


def test_parts_of_evaluation_batches_are_all_batches(problem):
    parts = [
        list(evaluation_batches(*problem, 4, **STATISTICS, part=(index, 4))) for index in range(4)
    ]
    assert [len(part) for part in parts] == [2, 2, 1, 1]
    labels = [[y.numpy() for _, y in part] for part in parts]
    in_order = [labels[number % 4][number // 4] for number in range(6)]
    np.testing.assert_array_equal(np.concatenate(in_order), problem[1])


def test_batches_that_cannot_be_divided_are_refused(problem):
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of the 4 workers"):
        training_batches(*problem, 6, **STATISTICS, part=(0, 4))
    with pytest.raises(ValueError, match=r"in all batches.*drop_remainder=False"):
        training_batches(*problem, 6, **STATISTICS, part=(0, 2), drop_remainder=False)
