"""Accuracies of results: their headings, which images selected the epoch, mean over trials."""

import statistics


def columns(has_validation):
    """Names of the accuracies of a result, with the headings that tables give them."""
    if has_validation:
        return {
            "accuracy_selected": "test top-1, epoch selected on validation images",
            "accuracy_validation": "validation top-1 of that epoch",
        }
    return {"accuracy_last": "test top-1, last epoch", "accuracy_best": "test top-1, best epoch"}


def selection(has_validation):
    """How the epochs in the columns are selected, as a sentence or two."""
    if has_validation:
        return (
            "The epoch is selected on the validation images. The test images are evaluated once, "
            "after that."
        )
    return (
        "The last epoch is reported without any selection. The best epoch is selected on the test "
        "images, as in the papers, so its accuracy is optimistic."
    )


def accuracy_of(result):
    """The test accuracy of the network that was saved."""
    return result.get("accuracy_selected", result.get("accuracy_last"))


# === Several trials ===


def mean_and_std(values):
    """Mean and sample standard deviation; `None` for what the number of values does not give."""
    values = list(values)
    return (
        statistics.mean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def mean_text(mean, std=None):
    """Mean and standard deviation as text, `-` for no mean."""
    if mean is None:
        return "-"
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"
