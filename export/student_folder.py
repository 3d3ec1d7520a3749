"""The folder of a student, that of a run or of a sweep: the student in it, and how it was made."""

import os
from pathlib import Path

from letkd_keras.commands.run_folder import CONFIG, is_run_folder, read_config
from letkd_keras.files import read_json

SWEEP = "sweep.json"
REDUCED = "reduced.keras"
_STUDENT = "student.keras"


def find_student(folder):
    """Find the student of a folder.

    Args:
        folder: A folder with `student.keras`, a sweep's folder with `reduced.keras`, or a run
            folder. Of a run folder it is the first student of the method that the run exports, or
            the only student.

    Returns:
        Path of the `.keras` file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a run folder has several and none of them is marked for export.
    """
    folder = Path(folder)
    for name in (_STUDENT, REDUCED):
        if (folder / name).is_file():
            return folder / name
    if (folder / CONFIG).is_file():
        config = read_config(folder, "model")
        method, seed = config.get("export_method"), config.get("seed")
        marked = folder / str(method) / f"seed{seed}" / _STUDENT
        if marked.is_file():
            return marked
        students = sorted(folder.glob(f"*/seed*/{_STUDENT}"))
        if len(students) == 1:
            return students[0]
        if students:
            names = ", ".join(str(file.parent.relative_to(folder)) for file in students)
            raise ValueError(
                "`model` must be one student of this run folder, a folder below it: "
                f"{names}. Received: model={str(folder)!r}"
            )
    raise FileNotFoundError(
        f"`model` must be a folder with a trained student: {_STUDENT}, {REDUCED}, or a run folder. "
        f"Received: model={str(folder)!r}"
    )


def check_sweep_folder(path):
    """Refuse a folder that stands for another student, which a sweep would replace.

    Args:
        path: Folder that a sweep is to write.

    Raises:
        ValueError: If it is a run folder, or contains `student.keras`.
    """
    if is_run_folder(path) or (Path(path) / _STUDENT).is_file():
        raise ValueError(
            f"`out` must not be a run folder or a folder with {_STUDENT}, since the folder of a "
            f"sweep stands for its own student. Received: out={str(path)!r}"
        )


def provenance_of(model):
    """Describe how a student was made.

    Args:
        model: What `load_student` accepts.

    Returns:
        JSON-like dictionary: for a file or folder of a run, `run` (its name), `student` (path
        below it), `config`, and `result` of the student's training; for a sweep's folder, or the
        model in it, also `reduced`. `None` for other models.
    """
    if not isinstance(model, str | Path):
        return None
    path = Path(model)
    sweep = sweep_of(path)
    if sweep is not None:
        return {**(sweep.get("training") or {}), "reduced": sweep.get("reduced")}
    run = run_of(path)
    if run is None:
        return None
    student = find_student(path) if path.is_dir() else path
    provenance = {
        "run": run.resolve().name,
        "student": Path(os.path.relpath(student, run)).as_posix(),
        "config": read_config(run, "model"),
    }
    if (student.parent / "result.json").is_file():
        provenance["result"] = read_json(student.parent / "result.json")
    return provenance


def run_of(path):
    """The run folder of a file or folder (RUN/METHOD/seedN/student.keras, or in a folder there)."""
    candidates = [path, *path.absolute().parents[:4]]
    return next((folder for folder in candidates if is_run_folder(folder)), None)


def sweep_of(path):
    """What a sweep wrote about the model of its folder, or `None` for other models.

    Raises:
        ValueError: If `sweep.json` is damaged.
    """
    folder = path.parent if path.name == REDUCED else path
    # A folder with a student stands for it, see `find_student`.
    if not (folder / SWEEP).is_file() or (path / _STUDENT).is_file():
        return None
    sweep = read_json(folder / SWEEP)
    if not isinstance(sweep, dict):
        raise ValueError(f"{folder / SWEEP} is damaged: it is not what a sweep writes.")
    return sweep
