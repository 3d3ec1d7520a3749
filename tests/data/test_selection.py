import numpy as np
import pytest

from letkd_keras.data.selection import find_split, fraction_of, held_out, stratified

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 4], [60, 30, 10]))


@pytest.mark.parametrize("examples", [10, 50, 90])
def test_classes_are_in_the_same_proportion(examples):
    chosen = stratified(LABELS, examples, 3, "n")
    counts = np.bincount(LABELS[chosen])[[0, 1, 4]]
    np.testing.assert_allclose(counts, np.array([0.6, 0.3, 0.1]) * examples, atol=1)
    assert np.all(np.diff(chosen) > 0)


def test_every_class_is_there_and_almost_all_can_be_taken():
    assert set(LABELS[stratified(LABELS, 3, 0, "n")]) == {0, 1, 4}
    assert len(stratified(LABELS, 99, 0, "n")) == 99


def test_the_seed_decides():
    a, b, c = (stratified(LABELS, 20, seed, "n") for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_all_is_all():
    assert stratified(LABELS, None, 0, "n") == stratified(LABELS, 100, 0, "n") == slice(None)


@pytest.mark.parametrize("examples", [2, 101])
def test_too_few_or_too_many_are_refused(examples):
    with pytest.raises(ValueError, match=r"`n` must be between 3 \(one for each class\) and 100"):
        stratified(LABELS, examples, 0, "n")


def test_two_parts_have_the_classes_in_proportion():
    first, rest = held_out(LABELS, 0.2, 1)
    np.testing.assert_array_equal(np.bincount(LABELS[first])[[0, 1, 4]], [12, 6, 2])
    assert sorted([*first, *rest]) == list(range(100))


@pytest.mark.parametrize("fraction", [0, 1, -1, 0.01, 0.99, float("nan")])
def test_a_fraction_that_leaves_a_class_out_is_refused(fraction):
    with pytest.raises(ValueError, match=r"`fraction` must be greater than 0 and less than 1"):
        held_out(LABELS, fraction, 0)


def test_two_images_of_a_class_are_in_both_parts():
    labels = np.repeat([0, 1], [30, 2])
    for fraction in (0.1, 0.5, 0.9):
        for part in held_out(labels, fraction, 0):
            assert set(labels[part]) == {0, 1}


def test_only_image_of_a_class_is_never_held_out_but_keeps_its_label():
    labels = np.repeat([0, 7], [20, 1])
    with pytest.raises(ValueError, match=r"two images to be split\. Received: 1 of the label 7$"):
        held_out(labels, 0.1, 0)
    chosen, _ = fraction_of(labels, 0.1, 0)
    assert sorted(labels[chosen]) == [0, 7]


def test_split_that_does_not_exist():
    splits = {"train": 1, "test": 2}
    assert find_split(splits, "test") == 2
    with pytest.raises(ValueError, match=r"'train' or 'test'\. Received: split='val'$"):
        find_split(splits, "val")
    with pytest.raises(ValueError, match="only after hold_out"):
        find_split(splits, "validation")
