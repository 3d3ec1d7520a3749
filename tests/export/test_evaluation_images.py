import math
from dataclasses import replace

import numpy as np
import pytest
from image_trees import write_tree
from small_image_data import image_data

from letkd_keras.data import DataSpec
from letkd_keras.export import evaluation_images as evaluation
from letkd_keras.export.evaluation_images import evaluation_images, selection_images, take


def _rows(images, data, split):
    """Rows of the split that normalized images are."""
    x = (getattr(data, f"x_{split}") / 255 - np.array(data.mean)) / np.array(data.std)
    distances = np.abs(x[None] - images[:, None]).max(axis=(2, 3, 4))
    assert distances.min(axis=1).max() < 1e-5
    return distances.argmin(axis=1)


def test_images_are_normalized_and_of_all_classes():
    data = image_data()
    chosen = evaluation_images(data, test_images=10, calibration_images=15)
    rows = _rows(chosen.images, data, "test")
    np.testing.assert_array_equal(data.y_test[rows], chosen.labels)
    np.testing.assert_array_equal(np.bincount(chosen.labels), [2] * 5)
    rows = _rows(chosen.calibration, data, "train")
    np.testing.assert_array_equal(np.bincount(data.y_train[rows]), [3] * 5)
    assert chosen.class_names == tuple("abcde")
    assert chosen.name == "blocks, made for tests"
    assert evaluation_images(data, calibration_images=0).calibration is None


def test_large_images_are_limited_and_the_log_says_so(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(evaluation, "_VALUES", 20 * math.prod(image_data().image_shape))
    monkeypatch.setattr(evaluation, "_BATCH", 8)
    assert len(take(image_data(), "train", 25)[0]) == 20
    assert "20 train images are used in place of 25, since 256 MiB hold no more" in caplog.text
    caplog.clear()
    assert len(take(image_data(), "train", 20)[0]) == 20
    assert caplog.text == ""
    monkeypatch.setattr(evaluation, "_VALUES", 70 * math.prod(image_data().image_shape))
    assert len(take(image_data(), "train", 75)[0]) == 60  # there are no more
    assert caplog.text == ""
    monkeypatch.setattr(evaluation, "_VALUES", 1)
    assert len(take(image_data(), "train", 25)[0]) == 8  # a batch


def test_fewer_images_than_classes():
    images, labels = take(image_data(), "train", 3)
    assert len(images) == len(labels) == 3
    assert len(take(image_data(), "train", 1000)[0]) == 60


def test_selection_images_are_training_images_apart_from_the_calibration_images():
    data = image_data()
    selection = selection_images(data, selection=20, calibration=30)
    chosen = _rows(selection.images, data, "train")
    fitted = _rows(selection.calibration, data, "train")
    assert (len(chosen), len(fitted)) == (20, 30)
    assert not set(chosen) & set(fitted)
    assert set(selection.labels) == set(range(5))  # the data set is ordered by class
    np.testing.assert_array_equal(data.y_train[chosen], selection.labels)
    assert selection.description.startswith("20 training images that the reduction was not fitted")
    # Fewer images than asked for are divided in the same proportion.
    few = selection_images(data, selection=400, calibration=800)
    assert (len(few.images), len(few.calibration)) == (20, 40)


def test_selection_images_are_the_validation_images_where_there_are_some():
    data = image_data()
    data = replace(data, x_validation=data.x_test[::2], y_validation=data.y_test[::2])
    selection = selection_images(data, selection=100, calibration=30)
    np.testing.assert_array_equal(_rows(selection.images, data, "validation"), range(15))
    assert len(_rows(selection.calibration, data, "train")) == 30
    assert selection.description == "15 validation images, held out of the training"
    few = selection_images(data, selection=5, calibration=30)
    rows = _rows(few.images, data, "validation")
    assert len(set(rows)) == 5
    np.testing.assert_array_equal(data.y_validation[rows], few.labels)
    assert list(few.labels) != sorted(few.labels)  # of an ordered data set, not the first ones


# A choice of training images has one of each class at least.
@pytest.mark.parametrize(("split", "count", "most"), [("validation", 3, 8), ("train", 1, 2)])
def test_of_many_images_few_are_kept_in_memory(split, count, most, monkeypatch):
    kept, concatenate = [], np.concatenate

    def record(arrays):
        kept.append(sum(map(len, arrays)))
        assert all(array.base is None for array in arrays)  # a view keeps its whole batch
        return concatenate(arrays)

    data = image_data()
    data = replace(data, x_validation=data.x_test, y_validation=data.y_test)
    monkeypatch.setattr(evaluation, "_BATCH", 4)
    monkeypatch.setattr(np, "concatenate", record)
    images, _ = take(data, split, count)
    assert (len(images), max(kept)) == (count, most)  # one of each batch


def test_the_choice_depends_on_the_seed():
    data = image_data()
    with_validation = replace(data, x_validation=data.x_test, y_validation=data.y_test)
    for choose in (
        lambda seed: evaluation_images(data, 10, 10, seed).images,
        lambda seed: evaluation_images(data, 10, 10, seed).calibration,
        lambda seed: selection_images(data, 10, 10, seed).images,
        lambda seed: selection_images(data, 400, 800, seed).images,  # all, divided
        lambda seed: selection_images(with_validation, 10, 10, seed).images,
        lambda seed: selection_images(with_validation, 10, 10, seed).calibration,
    ):
        first, again, other = (np.asarray(choose(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert np.any(first != other)


def test_streamed_images(tmp_path):
    write_tree(tmp_path / "train", images=8, size=(40, 40))
    write_tree(tmp_path / "val", images=3, size=(40, 40))
    data = DataSpec(f"imagenet:{tmp_path}", image_size=16, validation_fraction=0.25).open()
    evaluation = evaluation_images(data, test_images=6, calibration_images=6)
    assert evaluation.images.shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(np.bincount(evaluation.labels), [2, 2, 2])
    assert evaluation.crop == 0.875
    selection = selection_images(data, selection=100, calibration=9)
    np.testing.assert_array_equal(np.bincount(selection.labels), [2, 2, 2])
    assert len(selection.calibration) == 9
    (tmp_path / "val" / "cat" / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"cat.0\.png"):
        take(data, "test", 100)
