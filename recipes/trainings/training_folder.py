"""The folder of a training, and that of a run: where trainings lie, and reading what they left.

The folder of a training has `result.json` once it is finished, `error.txt` if it failed, and
`metrics.csv`.
"""

import csv
import hashlib
import json
import re
from pathlib import Path

from letkd_keras.files import checksum, read_json, write_json

_CHECKSUM = "sha256"


# === Files with a checksum ===


def write_checked_json(path, value):
    """Write a dictionary as JSON with a checksum of itself."""
    value = json.loads(json.dumps(value))
    write_json(path, {**value, _CHECKSUM: _digest(value)})


def read_checked_json(path):
    """Read what `write_checked_json` wrote.

    Raises:
        ValueError: If the file is damaged; the message says what to do.
    """
    path = Path(path)
    try:
        value = read_json(path)
    except ValueError:
        raise damaged(path) from None
    if not isinstance(value, dict) or value.pop(_CHECKSUM, None) != _digest(value):
        raise damaged(path)
    return value


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_file(path, expected):
    """Refuse a file that is not the one whose checksum was recorded.

    Raises:
        ValueError: If it is missing or differs; the message says what to do.
    """
    if not Path(path).is_file() or checksum(path) != expected:
        raise damaged(path)


def damaged(path):
    """The error about a damaged file in the folder of a training."""
    path = Path(path)
    folders, start = f"the folder {path.parent}", "this training then starts"
    if path.parent.name == "teacher":
        folders += " and those of students that were trained under this teacher,"
        start = "these trainings then start"
    return ValueError(
        f"{path} is damaged or missing. Delete {folders} and run the same command again: {start} "
        "from the beginning, the others are kept."
    )


# === The folder of a training ===


def student_folder(folder, method, seed):
    """Folder of a student's training in a run folder."""
    return Path(folder) / method / f"seed{seed}"


def student_trainings(folder):
    """`(method, seed, path)` of the students' trainings of a run folder, in order of the seeds.

    Other folders, such as a copy `seed0 (copy)`, are left out.
    """
    found = [
        (path.parent.name, int(path.name.removeprefix("seed")), path)
        for path in Path(folder).glob("*/seed*")
        if re.fullmatch(r"seed[0-9]+", path.name)
    ]
    return sorted(found, key=lambda training: training[1])


def finished(folder):
    """The result of a training that ran to its end and was saved, or `None`.

    Raises:
        ValueError: If `result.json` is damaged.
    """
    file = Path(folder) / "result.json"
    return read_checked_json(file) if file.exists() else None


def read_metrics(path):
    """Rows of a `metrics.csv`, numbers as floats.

    Raises:
        ValueError: If the file is damaged or missing.
    """
    try:
        with Path(path).open(newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, TypeError, ValueError) as error:  # a missing value, or text that is no number
        raise damaged(path) from error
    if not rows or "epoch" not in rows[0]:
        raise damaged(path)
    return rows


def check_student(training, result):
    """Refuse a finished student whose model or metrics are damaged, before anything uses them.

    Args:
        training: Folder of the student's training.
        result: What `finished` returned.

    Raises:
        ValueError: If a file is damaged or missing; the message says what to do.
    """
    check_file(Path(training) / "student.keras", result["model_sha256"])
    read_metrics(Path(training) / "metrics.csv")


def failure(folder):
    """First line of the error of a training that failed, or `None`."""
    file = Path(folder) / "error.txt"
    if not file.exists():
        return None
    return next(iter(file.read_text(errors="replace").splitlines()), "unknown error")
