import numpy as np
import pytest
from image_trees import write_tree
from small_image_data import image_data

from letkd_keras.data import NumberedBatches, load_imagenet


def _in_memory(tmp_path):
    return image_data()


def _streamed(tmp_path):
    write_tree(tmp_path / "train", images=7, suffix=".JPEG", size=(60, 50))
    write_tree(tmp_path / "val", images=3, size=(50, 60))
    return load_imagenet(tmp_path, 16).hold_out(2 / 7, seed=1)


@pytest.mark.parametrize("kind", [_in_memory, _streamed])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_batch_by_its_number_is_that_of_a_pass_to_the_bit(kind, split, tmp_path):
    batches = NumberedBatches(kind(tmp_path), 8, split)
    passed = list(batches)
    assert len(passed) == len(batches) > 1
    for number in reversed(range(len(batches))):
        for one, other in zip(batches[number], passed[number], strict=True):
            np.testing.assert_array_equal(one, other)


def test_there_is_no_batch_beyond_the_last_and_no_other_split():
    batches = NumberedBatches(image_data(), 16, "train")
    assert len(batches) == 4 and len(batches[3][1]) == 12
    for number in (4, -1):
        with pytest.raises(IndexError, match=f"4 batches. Received: number={number}"):
            batches[number]
    with pytest.raises(ValueError, match=r"`batch_size` must be .*batch_size=0$"):
        NumberedBatches(image_data(), 0, "train")
    with pytest.raises(ValueError, match="validation"):
        NumberedBatches(image_data(), 16, "validation")
