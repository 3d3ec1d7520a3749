"""Where a student is right and wrong: accuracy by class, confusion matrix, worst mistakes."""

import logging
import math
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.files import save_figure, write_csv
from letkd_keras.functional import load_model
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.trainings import training_folder

log = logging.getLogger(__name__)

_MISTAKES = 24
_COLUMNS = 6
# More classes are listed in the file only, or have no name beside a picture.
_MOST_ROWS = 30
_MOST_NAMES = 120
_MOST_NUMBERS = 15


@dataclass(frozen=True)
class Mistake:
    """An image that the student classified wrongly.

    Attributes:
        image: Pixels, uint8 [H, W, C].
        label: Its class.
        student: Class of the student.
        confidence: Probability that the student gives to that class.
        teacher: Class of the teacher.
    """

    image: np.ndarray
    label: int
    student: int
    confidence: float
    teacher: int


@dataclass(frozen=True)
class Predictions:
    """Classes of the test images.

    Attributes:
        labels: True classes, integers [N].
        student: Classes of the student [N].
        teacher: Classes of the teacher [N].
        mistakes: The worst `Mistake`s of the student, the most confident one first.
    """

    labels: np.ndarray
    student: np.ndarray
    teacher: np.ndarray
    mistakes: tuple


def predict(student, teacher, data, mistakes=_MISTAKES):
    """Classify the test images by both networks.

    Args:
        student: Student, from the images of `data` to logits.
        teacher: Teacher, likewise.
        data: `Dataset`.
        mistakes: Number of worst mistakes to keep.

    Returns:
        `Predictions`.
    """
    classes, worst = [], []
    for images, labels in data.evaluation_batches():
        labels = np.asarray(labels)
        logits, logits_of_teacher = (
            np.asarray(model.predict_on_batch(images), "float64") for model in (student, teacher)
        )
        by_student, by_teacher = logits.argmax(axis=-1), logits_of_teacher.argmax(axis=-1)
        classes.append((labels, by_student, by_teacher))
        confidence = softmax(logits, axis=-1).max(axis=-1)
        wrong = np.flatnonzero(by_student != labels)
        # Of a batch only images that can be among the worst are kept.
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:mistakes]
        pixels = _pixels(np.asarray(images)[wrong], data)
        worst += [
            Mistake(
                image,
                int(labels[row]),
                int(by_student[row]),
                float(confidence[row]),
                int(by_teacher[row]),
            )
            for image, row in zip(pixels, wrong, strict=True)
        ]
        worst = sorted(worst, key=lambda mistake: -mistake.confidence)[:mistakes]
    return Predictions(*map(np.concatenate, zip(*classes, strict=True)), tuple(worst))


def by_class(predictions, class_names):
    """Number of test images and accuracies of each class.

    Args:
        predictions: `Predictions`.
        class_names: Names of the classes.

    Returns:
        List of dictionaries in the order of the classes: `class`, `images`, and the accuracies in
        percent `student` and `teacher`, `None` without images.
    """
    rows = []
    for label, name in enumerate(class_names):
        own = predictions.labels == label
        row = {"class": str(name), "images": int(own.sum())}
        for role in ("student", "teacher"):
            right = getattr(predictions, role)[own] == label
            row[role] = 100 * float(right.mean()) if own.any() else None
        rows.append(row)
    return rows


def write(student, teacher, data, folder, title):
    """Write `classes.csv`, `confusion.png` and, if the student errs at all, `mistakes.png`.

    Args:
        student: Student, from the images of `data` to logits.
        teacher: Teacher, likewise.
        data: `Dataset`.
        folder: Path of the run folder.
        title: What the student is called in the pictures.

    Returns:
        `(rows, text)`: those of `by_class`, and a section in Markdown.
    """
    from sklearn.metrics import confusion_matrix

    log.info("classifying the test images class by class")
    predictions = predict(student, teacher, data)
    rows = by_class(predictions, data.class_names)
    write_csv(folder / "classes.csv", list(rows[0]), rows)
    classes = range(data.num_classes)
    counts = confusion_matrix(predictions.labels, predictions.student, labels=classes)
    _plot_confusion(counts, data, folder, title)
    if predictions.mistakes:
        _plot_mistakes(predictions.mistakes, data, folder, title)
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)
    return rows, markdown(rows, title, bool(predictions.mistakes))


def markdown(rows, title, has_mistakes):
    """The section of a report.

    Args:
        rows: Those of `by_class`.
        title: What the student is called.
        has_mistakes: Whether there is a picture of mistakes.

    Returns:
        A text.
    """
    shown, note = rows, ""
    if len(rows) > _MOST_ROWS:
        shown = sorted(rows, key=lambda row: math.inf if row["student"] is None else row["student"])
        shown = shown[:_MOST_ROWS]
        note = f"The {_MOST_ROWS} classes that the student knows least; all are in `classes.csv`."
    heads, table = ["class", "test images", "student's accuracy", "teacher's accuracy"], []
    for row in shown:
        # A name may have a line break, which would end the table.
        name = " ".join(row["class"].split()).replace("|", r"\|")
        cells = [name, f"{row['images']:,}"]
        cells += [
            "-" if row[role] is None else f"{row[role]:.1f}" for role in ("student", "teacher")
        ]
        table.append(cells)
    mistakes = (
        "The student's most confident mistakes, with the true class, the student's and the "
        "teacher's:",
        "![Mistakes of the student](mistakes.png)",
    )
    return markdown_text(
        f"## Classes: {title}",
        note,
        markdown_table(heads, table),
        "Accuracies in percent, of the weights that were saved.",
        "![Confusion matrix of the student](confusion.png)",
        *(mistakes if has_mistakes else ()),
    )


def _pixels(images, data):
    """Pixels of normalized images, uint8."""
    pixels = 255 * (images.astype("float32") * np.asarray(data.std) + np.asarray(data.mean))
    return np.clip(np.round(pixels), 0, 255).astype("uint8")


def _plot_confusion(counts, data, folder, title):
    from matplotlib.figure import Figure

    classes = len(counts)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(4 + 0.35 * min(classes, _MOST_NAMES), 16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    # Its lightness grows evenly, also for color-blind readers and in gray.
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    figure.colorbar(image, label="share of the images of the true class (%)", shrink=0.8)
    numbers = ", with their numbers" if classes <= _MOST_NUMBERS else ""
    axes.set(xlabel="student's class", ylabel="true class")
    axes.set_title(f"{title}\ntest images of each class{numbers}", fontsize=10, parse_math=False)
    # All classes have their names, unless these would be too small to read.
    step = -(-classes // _MOST_NAMES)
    shown = range(0, classes, step)
    names = [str(data.class_names[label]) for label in shown]
    size = min(10, 55 * side / len(shown))
    axes.set_xticks(shown, names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(shown, names, fontsize=size, parse_math=False)
    if classes <= _MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                color = "black" if share > 50 else "white"
                number = f"{counts[row, column]}"
                axes.text(column, row, number, ha="center", va="center", color=color, fontsize=8)
    save_figure(figure, folder / "confusion.png", dpi=110)


def _plot_mistakes(mistakes, data, folder, title):
    from matplotlib.figure import Figure

    rows = math.ceil(len(mistakes) / _COLUMNS)
    figure = Figure(figsize=(2.1 * _COLUMNS, 2.9 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    names = [str(name) for name in data.class_names]
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, mistake in zip(grid.flat, mistakes, strict=False):
        image = mistake.image
        axes.imshow(np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image)
        axes.set_title(
            f"true: {names[mistake.label]}\n"
            f"student: {names[mistake.student]} ({100 * mistake.confidence:.0f}%)\n"
            f"teacher: {names[mistake.teacher]}",
            fontsize=8,
            loc="left",
            parse_math=False,
        )
    figure.suptitle(f"Most confident mistakes: {title}", parse_math=False)
    save_figure(figure, folder / "mistakes.png", dpi=110)


def of_run(experiment, folder, teacher):
    """Write the pictures and tables of the student of a run that ships.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.
        teacher: Trained teacher.

    Returns:
        What `write` returned, and `([], "")` where no student is exported.
    """
    method = experiment.export_method
    if method is None:
        return [], ""
    file = training_folder.student_folder(folder, method, experiment.seed) / "student.keras"
    student = load_model(file, "student")
    title = f"{experiment.student.title} by {methods.title(method)}"
    return write(student, teacher, experiment.data, folder, title)
