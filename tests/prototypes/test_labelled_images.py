import numpy as np
import pytest
from small_problem import SIZES, small_images

from letkd_keras.prototypes import fit_prototypes
from letkd_keras.prototypes.labelled_images import LabelledImages


def _batches(x, y, size=16):
    return [(x[start : start + size], y[start : start + size]) for start in range(0, len(x), size)]


class Shuffled:
    """Batches in another order at each pass."""

    def __init__(self, x, y):
        self.data = x, y
        self.passes = 0

    def __iter__(self):
        order = np.random.default_rng(self.passes).permutation(len(self.data[0]))
        self.passes += 1
        return iter(_batches(*(array[order] for array in self.data)))


def test_batches_and_their_first_numbers():
    x, y = small_images()
    images = LabelledImages(_batches(x, y), 5)
    assert images.labels is None and images.num_images is None
    seen = list(images.batches())
    assert [first for first, _, _ in seen] == [0, 16, 32, 48]
    np.testing.assert_array_equal(np.concatenate([batch for _, batch, _ in seen]), x)
    np.testing.assert_array_equal(images.labels, y)
    np.testing.assert_array_equal(images.per_class(), [12] * 5)
    for labels in (np.eye(5, dtype="float32")[y], 0.8 * np.eye(5)[y] + 0.04):  # one-hot, mixed
        np.testing.assert_array_equal(LabelledImages((x, labels), 5).labels, y)
    arrays = LabelledImages((x, y[:, None]), 5, batch_size=7, preprocess=lambda batch: 2 * batch)
    np.testing.assert_array_equal(arrays.labels, y)
    assert arrays.labels.dtype == "int32"
    np.testing.assert_array_equal(np.concatenate([b for _, b, _ in arrays.batches()]), 2 * x)


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_batches_by_number_are_those_of_a_pass(kind):
    x, y = small_images()
    data = (x, y) if kind == "arrays" else _batches(x, y)
    size = {"batch_size": 16} if kind == "arrays" else {}  # batches have their own size
    images = LabelledImages(data, 5, **size, preprocess=lambda batch: 2 * batch)
    images.check_numbered()
    assert (images.num_batches(), images.num_images) == (4, 60)
    expected = list(images.batches())
    for seen in (images.numbered_batches(0, 4), [*images.numbered_batches(1, 4)]):
        seen = list(seen)
        for one, other in zip(seen, expected[-len(seen) :], strict=True):
            assert one[0] == other[0]
            np.testing.assert_array_equal(one[1], other[1])
            np.testing.assert_array_equal(one[2], other[2])


def test_batches_by_number_have_one_size_except_for_the_last():
    x, y = small_images()
    images = LabelledImages([(x[:20], y[:20]), (x[20:30], y[20:30]), (x[30:], y[30:])], 5)
    images.check_numbered()
    with pytest.raises(ValueError, match=r"batches of one size .*a batch of 10 images.* has 20$"):
        list(images.numbered_batches(1, 2))
    assert [first for first, _, _ in images.numbered_batches(2, 3)] == [40]


def test_no_batches_are_no_images_and_an_empty_batch_is_none():
    images = LabelledImages([], 5)
    images.check_numbered()
    assert images.num_images == 0
    assert not list(images.batches())
    assert images.num_images == 0 and images.labels.dtype == "int32"
    x, y = small_images()
    images = LabelledImages([(x, y), (x[:0], y[:0])], 5)
    assert [len(labels) for _, _, labels in images.batches()] == [60, 0]


def test_the_digest_tells_pixels_types_shapes_and_labels_apart():
    x, y = small_images()
    others = (x + 1, y), (x.view("int32"), y), (x.reshape(60, -1), y), (x, (y + 1) % 5)
    assert len({LabelledImages(data, 5).digest() for data in ((x, y), *others)}) == 5


@pytest.mark.parametrize("label", [-1, 5])
def test_labels_that_are_no_classes_are_refused(label):
    x, y = small_images()
    labels = np.where(np.arange(60) == 3, label, y)
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 5\).*(-1 to 4|0 to 5)"):
        LabelledImages((x, labels), 5)
    with pytest.raises(ValueError, match=r"must yield batches \(images, labels\).*of tuple"):
        next(LabelledImages([(x,)], 5).batches())


def test_data_without_numbers_are_refused_where_numbers_are_needed():
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(small_images()).batch(16)
    with pytest.raises(ValueError, match=r'pair of arrays with engine="ray".*BatchDataset'):
        LabelledImages(dataset, 5).check_numbered()


def test_a_pass_by_others_is_compared_with_the_labels():
    x, y = small_images()
    images = LabelledImages((x, y), 5)
    assert [first for first, _, _ in images.follow([("a", y[:40]), ("b", y[40:])])] == [0, 40]
    with pytest.raises(ValueError, match="image 40 of class 1, which was of class 0"):
        list(images.follow([("a", y[:40]), ("b", y[41:])]))
    with pytest.raises(ValueError, match="Received: 40 images, 60 before"):
        list(images.follow([("a", y[:40])]))


def test_another_order_at_the_second_pass_is_noticed_at_its_first_batch():
    images = LabelledImages(Shuffled(*small_images()), 5)
    list(images.batches())
    with pytest.raises(ValueError, match=r"at each pass, without shuffling.*image \d of"):
        next(images.batches())


def test_more_or_fewer_images_at_the_second_pass_are_noticed():
    x, y = small_images()
    for count, other in ((55, 60), (60, 55)):
        images = LabelledImages(_batches(x[:count], y[:count]), 5)
        list(images.batches())
        images.data = _batches(x[:other], y[:other])
        with pytest.raises(ValueError, match=f"at each pass. Received: {other} images, {count}"):
            list(images.batches())


def test_labels_of_an_earlier_process_are_compared():
    x, y = small_images()
    images = LabelledImages(_batches(x, y), 5)
    images.expect(y)
    assert len(list(images.batches())) == 4
    with pytest.raises(ValueError, match=r"image 3 of class 4, which was of class 3"):
        LabelledImages((x, y), 5).expect(np.where(np.arange(60) == 3, 4, y))
    with pytest.raises(ValueError, match="Received: 59 images, 60 before"):
        LabelledImages((x, y), 5).expect(y[:59])


def test_a_shuffled_data_set_is_refused_by_the_fit(teacher):
    import tensorflow as tf

    x, y = small_images()
    shuffled = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60, seed=1).batch(16)
    with pytest.raises(ValueError, match="same order at each pass, without shuffling"):
        fit_prototypes(teacher(), shuffled, **SIZES)
    # In the same order each time it is as good as any other.
    fixed = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(
        60, seed=1, reshuffle_each_iteration=False
    )
    assert fit_prototypes(teacher(), fixed.batch(16), **SIZES).levels


def test_an_endless_data_set_is_refused(teacher):
    import tensorflow as tf

    endless = tf.data.Dataset.from_tensor_slices(small_images()).repeat().batch(16)
    with pytest.raises(ValueError, match=r"must come to an end: remove `\.repeat\(\)`"):
        fit_prototypes(teacher(), endless, **SIZES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("images", "not a path: .*data='images'"),
        (np.zeros((3, 8, 8, 3)), "a pair of arrays or a set of batches.*ndarray"),
        (7, "a pair of arrays or a set of batches.*int"),
        ([np.zeros((3, 8, 8, 3))], r"batches \(images, labels\).*ndarray"),
        ([{"image": 1, "label": 2}], r"batches \(images, labels\).*dict"),
    ],
)
def test_data_of_another_form_are_refused(data, message, teacher):
    with pytest.raises(ValueError, match=message):
        fit_prototypes(teacher(), data, **SIZES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused_by_number(teacher, value):
    x, y = small_images()
    x[37, 2, 1, 0] = value
    with pytest.raises(ValueError, match=r"`data` must have finite images.*in image 37"):
        fit_prototypes(teacher(), (x, y), **SIZES, batch_size=16)
