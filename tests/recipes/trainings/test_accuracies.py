from letkd_keras.recipes.trainings import accuracies


def test_mean_and_sample_standard_deviation():
    assert accuracies.mean_and_std([60, 70, 80]) == (70, 10)
    assert accuracies.mean_and_std([60]) == (60, None)
    assert accuracies.mean_and_std([]) == (None, None)
    assert accuracies.mean_text(70, 10) == "70.00 ± 10.00"
    assert accuracies.mean_text(70) == "70.00"
    assert accuracies.mean_text(None) == "-"


def test_what_images_selected():
    assert "selected on the validation images" in accuracies.selection(True)
    assert "selected on the test images" in accuracies.selection(False)
    assert accuracies.accuracy_of({"accuracy_selected": 1, "accuracy_last": 2}) == 1
