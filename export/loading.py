"""What `export_student` takes for a student, turned into one functional model."""

import json
import zipfile
from pathlib import Path

import keras

from letkd_keras.export.rewriting import rewrite
from letkd_keras.functional.graph import check_functional, flatten
from letkd_keras.functional.softmax_removal import remove_softmax


def load_student(model):
    """The student, as a functional model, of whatever holds one.

    Args:
        model: A distilling model (anything with a `.student`), a functional or Sequential
            `keras.Model`, a `.keras` file of either, a run folder of the recipes, or the folder of
            a sweep.

    Returns:
        A functional `keras.Model` from images to logits, also where the model gives a softmax.
        Weights are shared, not copied, but for such a last layer's, and unless the model computes
        in less than float32: then it is a copy in float32.

    Raises:
        FileNotFoundError: If a path does not exist or its folder holds no student.
        ValueError: If it is no model, not built, or not functional with one input and one output.
    """
    if isinstance(model, str | Path):
        model = _load(Path(model))
    student = getattr(model, "student", model)
    if isinstance(student, keras.Sequential) and student.built:
        student = keras.Model(student.inputs[0], student.outputs[0], name=student.name)
    if isinstance(student, keras.Model) and not student.built:
        raise ValueError(
            "`model` must be built, so that its weights exist: call it on a batch or give it an "
            f"Input. Received: model={student.name!r}, which is not built"
        )
    check_functional(student, "model")
    student = remove_softmax(student)
    if any(layer.compute_dtype != "float32" for layer in student.layers):
        # A student trained in mixed precision ships, and is compared, in float32.
        student = rewrite(flatten(student), lambda layer, rewriter, *args, **kwargs: None)
    return student


def _load(path):
    file = find_student(path) if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"`model` must be a .keras file or a run folder. Received: {str(path)!r}"
        )
    if not zipfile.is_zipfile(file):
        raise ValueError(f"`model` must be a whole .keras file. Received: {str(file)!r}")
    return keras.models.load_model(file, compile=False)


def find_student(folder):
    """The `.keras` file of the student that a folder is about.

    Args:
        folder: A folder with `student.keras`, a sweep's with `reduced.keras`, or the folder of a
            run with `config.json`.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: If there is none.
    """
    folder = Path(folder)
    config = folder / "config.json"
    candidates = [folder / "student.keras", folder / "reduced.keras"]
    if config.is_file():
        settings = json.loads(config.read_text())
        method, seed = settings.get("export_method"), settings.get("seed")
        candidates.append(folder / str(method) / f"seed{seed}" / "student.keras")
    for file in candidates:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"`model` {str(folder)!r} holds no trained student: none of "
        f"{', '.join(str(file) for file in candidates)} is there"
    )
