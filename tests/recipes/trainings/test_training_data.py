from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_image_data import image_data

from letkd_keras import memory_mapped
from letkd_keras.recipes.trainings.training_data import (
    balanced_class_weights,
    few_for_students,
)

# Images that are read from disk: labels are known for files, not for records.
FILES = SimpleNamespace(
    name="photos", in_memory=False, num_classes=3, train=SimpleNamespace(files=None)
)
FILES.train.files = SimpleNamespace(labels=[0, 0, 0, 1])
RECORDS = SimpleNamespace(name="tfds:x", in_memory=False, num_classes=3, train=object())


def test_weights_of_classes_by_hand():
    # The third class has no image.
    assert balanced_class_weights(FILES) == {0: 4 / (3 * 3), 1: 4 / (3 * 1), 2: 4 / 3}


def test_every_class_counts_the_same_and_the_mean_is_1():
    data = image_data(y_train=np.repeat(np.arange(5), (2, 30, 8, 15, 5)))
    weights = balanced_class_weights(data)
    of_images = [weights[label] for label in data.y_train]
    np.testing.assert_allclose(np.bincount(data.y_train, of_images), 60 / 5)
    assert np.mean(of_images) == pytest.approx(1)


def test_weights_of_records_are_refused():
    with pytest.raises(ValueError, match=r"`class_weights` need labels.*tfds:x"):
        balanced_class_weights(RECORDS)


def test_few_images_are_repeated_in_the_same_proportion():
    data = image_data()
    few = few_for_students(data, 10, seed=0)
    assert few.train_examples == data.train_examples == 60
    images, counts = np.unique(few.x_train, axis=0, return_counts=True)
    assert len(images) == 10 and set(counts) == {6}
    np.testing.assert_array_equal(np.bincount(few.y_train), np.bincount(data.y_train))
    assert few_for_students(data, None, seed=0) is data


def test_few_images_of_a_cache_must_fit_into_memory(tmp_path, monkeypatch):
    data = image_data()
    np.save(tmp_path / "x.npy", data.x_train)
    mapped = replace(data, x_train=np.load(tmp_path / "x.npy", mmap_mode="r"))
    few = few_for_students(mapped, 10, seed=0)
    np.testing.assert_array_equal(few.x_train, few_for_students(data, 10, seed=0).x_train)
    monkeypatch.setattr(memory_mapped, "physical_memory", lambda: data.x_train.nbytes - 1)
    with pytest.raises(
        ValueError, match="`student_examples` copies 60 images of the `image_cache`"
    ):
        few_for_students(mapped, 10, seed=0)
    with pytest.raises(ValueError, match=r"`student_examples` must .*student_examples=61"):
        few_for_students(data, 61, seed=0)


def test_few_images_of_those_read_from_disk_are_refused():
    with pytest.raises(ValueError, match=r"`student_examples` needs data in memory.*photos"):
        few_for_students(FILES, 2, seed=0)
