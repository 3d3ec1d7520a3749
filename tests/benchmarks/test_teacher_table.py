"""Trainings under a table of the teacher's outputs, beside those under the teacher itself."""

import csv

import pytest
import teacher_table

from letkd_keras.recipes import compare

DATA = ("--data", "digits", "--train-examples", "60", "--test-examples", "40")


def _metrics(folder):
    with (folder / "seed0" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(row[name]) for name in row if name != "seconds"} for row in rows]


@pytest.mark.slow
def test_trainings_are_those_under_the_teacher_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(
        teacher_table.Distiller, "_set_teacher", teacher_table.Distiller._set_teacher
    )
    first = ("--teacher", "resnet8", "--teacher-epochs", "2", "--methods", "student")
    small = (*DATA, "--batch-size", "20", "--epochs", "2", "--templates", "16")
    compare.main([*small, *first, "--out", str(tmp_path / "teacher")])
    teacher = str(tmp_path / "teacher" / "teacher" / "teacher.keras")
    options = [*small, "--teacher", teacher, "--methods", "kd", "letkd2+dkd"]
    few = [*options, "--labelled-fraction", "0.5"]  # with the same table
    compare.main([*options, "--out", str(tmp_path / "plain")])
    compare.main([*few, "--out", str(tmp_path / "few_plain")])
    table = str(tmp_path / "table")
    teacher_table.main([table, *options, "--out", str(tmp_path / "table_run")])
    made = (tmp_path / "table" / "logits.npy").stat().st_mtime_ns
    teacher_table.main([table, *few, "--out", str(tmp_path / "few_table_run")])
    assert (tmp_path / "table" / "logits.npy").stat().st_mtime_ns == made
    for run in ("", "few_"):
        for method in ("kd", "letkd2+dkd"):
            rows = _metrics(tmp_path / f"{run}table_run" / method)
            assert len(rows) == 2
            # Only what threads add up in another order may differ.
            for row, plain in zip(rows, _metrics(tmp_path / f"{run}plain" / method), strict=True):
                assert row == pytest.approx(plain, rel=1e-5)

    other = [*options, "--seed", "1", "--out", str(tmp_path / "other")]
    with pytest.raises(ValueError, match="`table` must be of this teacher and these images"):
        teacher_table.main([table, *other])
