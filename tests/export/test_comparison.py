import keras
import numpy as np
import pytest
from scipy.special import softmax

from letkd_keras.export import ExportMismatch
from letkd_keras.export.comparison import check_classify, compare, logits_of, lost_class
from letkd_keras.export.options import ExportOptions


def _logits(classes):
    return np.eye(4, dtype="float32")[classes]


def _comparison(images, wrong_before, changed):
    """A student with `wrong_before` errors, of which `changed` become other errors in the file."""
    labels = np.zeros(images, int)
    student, file = labels.copy(), labels.copy()
    student[:wrong_before] = file[:wrong_before] = 1
    file[:changed] = 2
    return compare(_logits(student), _logits(file), labels)


def test_a_comparison_by_hand():
    student = np.array([[2.0, -5.0], [1.0, 3.0]], "float32")
    comparison = compare(student, np.array([[2.5, -4.0], [4.0, 3.0]], "float32"), np.array([0, 1]))
    assert (comparison.max_difference, comparison.scale, comparison.agreement) == (3, 5, 0.5)
    assert (comparison.num_images, comparison.num_classes) == (2, 2)
    assert (comparison.accuracy_before, comparison.accuracy) == (1, 0.5)
    with pytest.raises(ExportMismatch, match="file returns logits that are not finite"):
        compare(student, np.full((2, 2), np.nan)).check("file")


def test_the_limits_are_allowed_and_the_tolerance_is_relative():
    student = np.array([[200.0, -500.0], [100.0, 300.0]], "float32")
    file = student + np.float32([[0, 5], [0, 0]])
    compare(student, file).check("file", tolerance=0.01)
    with pytest.raises(ExportMismatch, match=r"more than 9e-03 of its logits' scale 500"):
        compare(student, file).check("file", tolerance=0.009)
    compare(student, file[:, ::-1]).check("file", min_agreement=0.0)
    _comparison(400, 160, 20).check("file", min_agreement=0.95)
    _comparison(400, 160, 20).check("file", min_agreement=0.98, min_accuracy=1.0)


def test_without_labels_no_accuracy_replaces_the_agreement():
    logits = _logits(np.arange(400) % 4)
    with pytest.raises(ExportMismatch, match=r"less than 98.0% of the images: max"):
        compare(logits, logits[::-1]).check("file", min_agreement=0.98, min_accuracy=0.99)


def test_errors_that_become_other_errors_are_allowed_by_the_accuracy():
    comparison = _comparison(1000, 400, 50)
    assert comparison.agreement == 0.95
    assert comparison.accuracy == comparison.accuracy_before == 0.6
    comparison.check("file", min_agreement=0.98, min_accuracy=0.99)
    with pytest.raises(ExportMismatch, match=r"less than 98.0% of the images: max"):
        comparison.check("file", min_agreement=0.98)


def test_the_accuracy_must_be_known_from_enough_images():
    with pytest.raises(ExportMismatch, match=r"less than 98.0% of the images: max"):
        _comparison(399, 160, 20).check("file", min_agreement=0.98, min_accuracy=0.99)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_accuracy_of_guessing_does_not_count(share):
    # As where the labels are in another order: any file has this accuracy.
    labels = np.zeros(1000, int)
    student, file = labels + 1, labels + 2
    known = int(share * len(labels))
    student[:known] = file[-known or len(file) :] = 0
    comparison = compare(_logits(student), _logits(file), labels)
    assert comparison.accuracy == comparison.accuracy_before == share
    with pytest.raises(ExportMismatch, match=r"less than 98.0% of the images: max"):
        comparison.check("file", min_agreement=0.98, min_accuracy=0.99)


@pytest.mark.parametrize(("lost", "is_refused"), [(6, False), (7, True)])
def test_a_lower_accuracy(lost, is_refused):
    labels = np.zeros(1000, int)
    student, file = labels.copy(), labels.copy()
    student[:400] = file[:400] = 1
    file[:50] = 2
    file[400 : 400 + lost] = 3  # of the 600 that the student names
    comparison = compare(_logits(student), _logits(file), labels)
    if is_refused:
        with pytest.raises(ExportMismatch, match="and has less than 99% of its accuracy: max"):
            comparison.check("file", min_agreement=0.98, min_accuracy=0.99)
    else:
        comparison.check("file", min_agreement=0.98, min_accuracy=0.99)


def test_the_accuracy_replaces_no_tolerance():
    comparison = _comparison(1000, 400, 50)
    with pytest.raises(ExportMismatch, match="differs from the student by more than"):
        comparison.check("file", tolerance=1e-4, min_agreement=1.0, min_accuracy=0.99)


def _lost(images, before, after):
    """What `lost_class` finds where only class 1 loses images; class 0 has 1000 images."""
    labels = np.repeat([0, 1], [1000, images])
    student, file = np.zeros_like(labels), np.zeros_like(labels)
    student[1000 : 1000 + before] = file[1000 : 1000 + after] = 1
    return lost_class(_logits(student), _logits(file), labels)


def test_a_rare_class_that_the_file_no_longer_recognizes():
    assert _lost(20, 15, 0) == (1, 20, 15, 0)  # 98.5% of the same top-1
    assert _lost(20, 15, 11) == (1, 20, 15, 11)
    assert _lost(20, 15, 12) is None  # less than a fifth
    assert _lost(20, 11, 15) is None
    assert _lost(4, 3, 0) == (1, 4, 3, 0)
    assert _lost(4, 3, 1) is None  # two images
    assert lost_class(_logits([0, 1]), _logits([0, 0]), None) is None


def test_the_class_that_loses_most_is_named():
    labels = np.repeat([0, 1, 2], [100, 20, 10])
    file = labels.copy()
    file[:40], file[100:115], file[120:125] = 3, 0, 0
    assert lost_class(_logits(labels), _logits(file), labels) == (1, 20, 20, 5)


def test_of_two_lost_classes_the_one_that_loses_more_is_named():
    labels = np.repeat([0, 1, 2], [1000, 20, 20])
    for lost in ((15, 12), (12, 15)):
        file = labels.copy()
        file[1000 : 1000 + lost[0]] = file[1020 : 1020 + lost[1]] = 3
        label = 1 if lost[0] == 15 else 2
        assert lost_class(_logits(labels), _logits(file), labels) == (label, 20, 20, 5)


def test_images_that_the_student_names_wrong_too_are_not_lost():
    # The file loses 3 of 12 images, and names the others as the student does.
    labels = np.repeat([0, 1], [12, 100])
    student = np.where(labels == 1, 2, 0)
    file = np.where(np.arange(112) < 3, 3, student)
    assert lost_class(_logits(student), _logits(file), labels) == (0, 12, 12, 9)


def test_chance_is_how_often_images_of_other_classes_are_lost():
    labels = np.repeat([0, 1], 12)
    file = np.where(np.arange(24) < 3, 2, labels)
    assert lost_class(_logits(labels), _logits(file), labels) == (0, 12, 12, 9)
    assert lost_class(_logits(labels[:12]), _logits(file[:12]), labels[:12]) == (0, 12, 12, 9)


@pytest.mark.parametrize(("number", "is_named"), [(3, False), (4, False), (5, True)])
def test_a_class_that_loses_images_by_chance_is_not_named(number, is_named):
    """100 classes have ten images each, and one image in twenty is lost."""
    labels, logits = np.repeat(np.arange(100), 10), np.eye(100)
    file = labels.copy()
    file[10:1000:20] = 0
    file[10 * 8 : 10 * 8 + number] = 0
    lost = lost_class(logits[labels], logits[file], labels)
    assert lost == ((8, 10, 10, 10 - number) if is_named else None)


def test_logits_are_those_of_inference_in_float32():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dropout(0.9, dtype="mixed_float16")(inputs))
    images = np.arange(280.0).reshape(70, 4)  # more than are run at once
    logits = logits_of(model, images)
    assert logits.dtype == "float32"
    np.testing.assert_array_equal(logits, images)


def test_classify_must_give_the_probabilities_of_normalized_pixels():
    inputs = keras.Input((1, 1, 3))
    student = keras.Model(inputs, keras.layers.Flatten()(inputs))
    options = ExportOptions(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = np.array([[[[0, 51, 255]]]], "uint8")
    logits = [[-0.5 / 0.2, -0.2 / 0.3, 0.7 / 0.4]]
    check_classify(student, pixels, softmax(logits, axis=-1), options)
    with pytest.raises(ExportMismatch, match=r"`classify` of .* differs from the student's"):
        check_classify(student, pixels, softmax(logits, axis=-1) + 2e-4, options)
