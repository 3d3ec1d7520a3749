"""Records; `test_imagenet` has files."""

import numpy as np
import pytest
import tensorflow as tf

from letkd_keras.data.image_sources import RecordSource


@pytest.fixture
def records(tmp_path):
    """Forty records in four files; parsing gives the number back as image and label."""
    paths = []
    for file in range(4):
        path = str(tmp_path / f"{file}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(10):
                writer.write(str(10 * file + number).encode())
        paths.append(path)

    def parse(record):
        return record, tf.strings.to_number(record, tf.int64)

    return RecordSource(tuple(paths), parse, (10,) * 4, np.arange(40))


def numbers(dataset):
    return [int(label) for _, label in dataset]


def test_records_in_order_and_shuffled(records):
    assert numbers(records.in_order()) == list(range(40))
    first, again, later, other = (
        numbers(records.shuffled(seed, tf.constant(epoch, tf.int64)))
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again and sorted(first) == list(range(40))
    dataset = records.shuffled(0, tf.constant(0, tf.int64))
    assert numbers(dataset) == numbers(dataset) == first
    assert first != later and first != other and first != list(range(40))


def test_records_that_are_kept_have_the_same_order(records):
    epoch = tf.constant(1, tf.int64)
    order = numbers(records.shuffled(3, epoch))
    kept = numbers(records.shuffled(3, epoch, keep=lambda position: position % 4 == 1))
    assert kept == order[1::4]


def test_records_beyond_the_buffer_are_shuffled_by_file(records, monkeypatch):
    from letkd_keras.data import image_sources

    monkeypatch.setattr(image_sources, "_SHUFFLE_BUFFER", 1)
    monkeypatch.setattr(image_sources, "_INTERLEAVED", 1)
    orders = [numbers(records.shuffled(0, tf.constant(epoch, tf.int64))) for epoch in range(6)]
    starts = {order[0] for order in orders}
    assert len(starts) > 1 and starts <= {0, 10, 20, 30}


def test_order_of_records_does_not_depend_on_the_global_seed(records):
    def order(global_seed):
        tf.random.set_seed(global_seed)
        epochs = tf.data.Dataset.range(2)
        return numbers(epochs.flat_map(lambda epoch: records.shuffled(0, epoch)))

    first = order(0)
    assert sorted(first) == sorted([*range(40), *range(40)])
    assert order(5) == first and first[:40] != first[40:]


def test_subset_of_records(records):
    part = records.subset(5, seed=0, argument="train_examples")
    assert len(part) == 5 and numbers(part.in_order()) == [0, 1, 2, 3, 4]
    assert sorted(numbers(part.shuffled(0, tf.constant(0, tf.int64)))) == [0, 1, 2, 3, 4]
    assert len(records.subset(None, seed=0, argument="x")) == 40
    with pytest.raises(ValueError, match="`train_examples` must be between 1 and 40"):
        records.subset(41, seed=0, argument="train_examples")


@pytest.mark.parametrize("fraction, expected", [(0.2, 8), (0.5, 20), (0.75, 30)])
def test_records_are_held_out_at_random(fraction, expected, records):
    chosen, rest = records.hold_out(fraction, seed=0)
    assert (len(chosen), len(rest)) == (expected, 40 - expected)
    first, second = numbers(chosen.in_order()), numbers(rest.in_order())
    assert sorted(first + second) == list(range(40))
    assert sorted(numbers(rest.shuffled(0, tf.constant(1, tf.int64)))) == second
    assert numbers(records.hold_out(fraction, seed=1)[0].in_order()) != first
    assert len({source.digest() for source in (records, chosen, rest)}) == 3
    again, _ = rest.hold_out(0.5, seed=2)
    assert len(again) == round(len(rest) / 2) and set(numbers(again.in_order())) < set(second)


def test_records_of_a_subset_are_held_out(records):
    chosen, rest = records.subset(15, 0, "n").hold_out(0.2, seed=3)
    assert (len(chosen), len(rest)) == (3, 12)
    assert sorted(numbers(chosen.in_order()) + numbers(rest.in_order())) == list(range(15))


def test_subset_of_held_out_records(records):
    """Export takes its calibration images from the training images of such a data set."""
    for source in records.hold_out(0.2, seed=3):
        expected = numbers(source.in_order())[:6]
        part = source.subset(6, 0, "train_examples")
        assert len(part) == 6 and numbers(part.in_order()) == expected
        assert sorted(numbers(part.shuffled(0, tf.constant(1, tf.int64)))) == expected
        assert numbers(part.between(2, 5).in_order()) == expected[2:5]
        assert numbers(source.between(2, 6).between(1, 3).in_order()) == expected[3:5]
        assert numbers(part.subset(2, 0, "train_examples").in_order()) == expected[:2]
        assert part.digest() != source.digest()
        with pytest.raises(ValueError, match="`test_examples` must be between 1 and 6"):
            part.subset(7, 0, "test_examples")


def test_records_between_two_numbers_are_those_of_all(records):
    chosen, rest = records.hold_out(0.2, seed=3)
    for source in (records, records.subset(15, 0, "n"), chosen, rest):
        expected = numbers(source.in_order())
        for first, last in ((0, 4), (3, 8), (len(source) - 2, len(source)), (0, len(source))):
            part = source.between(first, last)
            assert len(part) == last - first
            assert numbers(part.in_order()) == expected[first:last]
    assert len(records.between(25, 31)._files()[0]) == 2


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan"), 0.0001])
def test_fraction_of_records_out_of_range(fraction, records):
    with pytest.raises(ValueError, match="`fraction` must be greater than 0"):
        records.hold_out(fraction, seed=0)
