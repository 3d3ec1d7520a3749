import pytest

from letkd_keras.export.student_folder import check_sweep_folder, find_student, provenance_of


def test_student_of_a_run(run):
    letkd2 = run / "letkd2" / "seed3" / "student.keras"
    assert find_student(run) == find_student(letkd2.parent) == letkd2
    letkd2.unlink()
    assert find_student(run) == run / "kd" / "seed3" / "student.keras"
    (run / "kd" / "seed4").mkdir()
    (run / "kd" / "seed4" / "student.keras").write_text("")
    with pytest.raises(ValueError, match=r"one student of this run folder.*kd/seed3, kd/seed4"):
        find_student(run)


def test_a_sweep_does_not_write_where_a_student_lies(run, tmp_path):
    for folder in (run, run / "letkd2" / "seed3"):
        with pytest.raises(ValueError, match=r"`out` must not be a run folder or a folder with st"):
            check_sweep_folder(folder)
    for folder in (tmp_path / "new", tmp_path, run / "sweep"):
        check_sweep_folder(folder)


def test_folder_without_a_student(tmp_path):
    with pytest.raises(FileNotFoundError, match="`model` must be a folder with a trained student"):
        find_student(tmp_path)


def test_provenance(run, tmp_path):
    provenance = provenance_of(run)
    assert provenance["run"] == "run"
    assert provenance["student"] == "letkd2/seed3/student.keras"
    assert provenance["config"]["seed"] == 3
    assert provenance["result"] == {"epochs": 4}
    assert provenance_of(run / "letkd2" / "seed3" / "student.keras") == provenance
    assert provenance_of(run / "kd" / "seed3")["student"] == "kd/seed3/student.keras"
    before_quantization = run / "kd" / "seed3" / "float" / "student.keras"
    assert provenance_of(before_quantization)["student"] == "kd/seed3/float/student.keras"
    assert provenance_of(before_quantization.parent / "below" / "student.keras") is None
    assert provenance_of(tmp_path / "elsewhere.keras") is None
    assert provenance_of(object()) is None


def test_provenance_of_a_relative_path(run, monkeypatch):
    monkeypatch.chdir(run / "kd" / "seed3")
    assert provenance_of("student.keras") == provenance_of(run / "kd" / "seed3" / "student.keras")


def test_provenance_of_a_student_that_is_a_link(run, tmp_path):
    student = run / "kd" / "seed3" / "student.keras"
    student.rename(tmp_path / "elsewhere.keras")
    student.symlink_to(tmp_path / "elsewhere.keras")
    assert provenance_of(student)["student"] == "kd/seed3/student.keras"
    (tmp_path / "linked").symlink_to(run)
    linked = tmp_path / "linked" / "kd" / "seed3"
    assert provenance_of(linked) == provenance_of(student)


def test_provenance_of_a_sweep(sweep):
    assert provenance_of(sweep) == {"run": "a", "reduced": {"form": "reduced-4"}}
    assert provenance_of(sweep / "reduced.keras") == provenance_of(sweep)
    assert provenance_of(sweep / "other.keras") is None
    # A student beside it is that of the folder, which the sweep does not describe.
    for name in ("reduced.keras", "student.keras"):
        (sweep / name).write_text("")
        assert find_student(sweep) == sweep / name
    assert provenance_of(sweep) is None
    assert provenance_of(sweep / "reduced.keras")["run"] == "a"
    (sweep / "student.keras").unlink()
    (sweep / "sweep.json").write_text('{"training": null, "reduced": {"form": "folded"}}')
    assert provenance_of(sweep) == {"reduced": {"form": "folded"}}
    (sweep / "sweep.json").write_text("[]")
    with pytest.raises(ValueError, match=r"sweep.json is damaged"):
        provenance_of(sweep)
