import json

import numpy as np
import pytest

from letkd_keras import memory_mapped
from letkd_keras.files import checksum
from letkd_keras.prototypes import remove_workdir
from letkd_keras.prototypes.steps import MemorySteps, WorkFolder


def _arrays():
    return {"points": np.arange(6.0).reshape(3, 2), "sizes": np.array([1, 2])}


@pytest.fixture(params=["memory", "folder"])
def steps(request, tmp_path):
    return (
        MemorySteps() if request.param == "memory" else WorkFolder(tmp_path / "work", {"seed": 0})
    )


def test_arrays_come_back_until_dropped(steps):
    assert not steps.has("features")
    steps.save("features", _arrays())
    assert steps.has("features")
    for name, array in steps.load("features").items():
        np.testing.assert_array_equal(array, _arrays()[name])
    steps.drop("features", ("points",))
    assert list(steps.load("features")) == ["sizes"]
    steps.drop("features", ("points",))


def test_another_process_finds_the_steps_and_the_checkpoint(tmp_path):
    first = WorkFolder(tmp_path, {"layers": ("a", "b"), "seed": 0})
    first.save("features", _arrays())
    first.save_checkpoint("penultimate", {"number": np.array(3), "centers": np.ones((2, 2))})
    second = WorkFolder(tmp_path, {"layers": ("a", "b"), "seed": 0})
    assert second.has("features") and not second.has("penultimate")
    np.testing.assert_array_equal(second.load("features")["points"], _arrays()["points"])
    assert second.load_checkpoint("penultimate")["number"] == 3
    assert second.load_checkpoint("features") is None


def test_a_folder_with_other_settings_is_refused_and_left_alone(tmp_path):
    WorkFolder(tmp_path, {"seed": 0, "memory": 5, "pool": 1}).save("features", _arrays())
    with pytest.raises(ValueError, match="memory: 5 before, 6 now; seed: 0 before, 1 now"):
        WorkFolder(tmp_path, {"seed": 1, "memory": 6, "pool": 1})
    assert WorkFolder(tmp_path, {"seed": 0, "memory": 5, "pool": 1}).has("features")


def test_files_without_a_record_are_no_step(tmp_path):
    steps = WorkFolder(tmp_path, {})
    np.save(steps.folder("features") / "points.npy", np.zeros(3))
    assert not steps.has("features")
    steps.save("features", _arrays())
    assert steps.load("features")["points"].shape == (3, 2)


def test_a_damaged_or_missing_file_is_refused_by_name(tmp_path):
    WorkFolder(tmp_path, {}).save("features", _arrays())
    file = tmp_path / "steps" / "features" / "points.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"points\.npy is damaged.*Remove .*features"):
        WorkFolder(tmp_path, {}).load("features")
    file.unlink()
    with pytest.raises(ValueError, match=r"points\.npy is damaged"):
        WorkFolder(tmp_path, {}).load("features")


@pytest.mark.parametrize("text", ["[1]", '{"points'])
def test_a_damaged_record_is_refused_by_name(text, tmp_path):
    WorkFolder(tmp_path, {}).save("features", _arrays())
    (tmp_path / "steps" / "features" / "step.json").write_text(text)
    with pytest.raises(ValueError, match=r"step\.json is damaged\. Remove .*features to compute"):
        WorkFolder(tmp_path, {}).load("features")


def test_a_file_is_read_once_for_its_checksum(tmp_path, monkeypatch):
    WorkFolder(tmp_path, {}).save("features", _arrays())
    read = []

    def checksum_of(file):
        read.append(file.name)
        return checksum(file)

    monkeypatch.setattr("letkd_keras.prototypes.steps.checksum", checksum_of)
    steps = WorkFolder(tmp_path, {})
    for _ in range(2):
        np.testing.assert_array_equal(steps.load("features")["points"], _arrays()["points"])
    assert sorted(read) == ["points.npy", "sizes.npy"]


def test_an_array_mapped_in_another_folder_is_copied(tmp_path):
    mapped = memory_mapped.create(tmp_path / "elsewhere.npy", (3, 2), "float32")
    mapped[:] = 4
    WorkFolder(tmp_path / "work", {}).save("features", {"points": mapped})
    (tmp_path / "elsewhere.npy").unlink()
    assert (WorkFolder(tmp_path / "work", {}).load("features")["points"] == 4).all()


def test_an_array_already_in_the_folder_is_checksummed_where_it_is(tmp_path):
    steps = WorkFolder(tmp_path, {})
    mapped = memory_mapped.create(steps.folder("features") / "points.npy", (3, 2), "float32")
    mapped[:] = 4
    inode = (tmp_path / "steps" / "features" / "points.npy").stat().st_ino
    steps.save("features", {"points": mapped})
    assert (tmp_path / "steps" / "features" / "points.npy").stat().st_ino == inode
    assert (WorkFolder(tmp_path, {}).load("features")["points"] == 4).all()
    record = json.loads((tmp_path / "steps" / "features" / "step.json").read_text())
    assert len(record["points"]) == 64


def test_a_finished_fit_leaves_no_folder(tmp_path):
    steps = WorkFolder(tmp_path / "work", {})
    steps.save("features", _arrays())
    with steps.locked():
        pass
    killed = tmp_path / "work" / ".config.json.0a1b2c3d.letkd"
    killed.mkdir()
    (killed / "config.json").write_text('{"se')
    remove_workdir(tmp_path / "work")
    assert not list(tmp_path.iterdir())
    remove_workdir(tmp_path / "work")


def test_files_of_others_are_never_removed(tmp_path):
    work = tmp_path / "work"
    WorkFolder(work, {}).save("features", _arrays())
    (work / "notes.txt").write_text("mine")
    (work / ".env.template").write_text("mine")
    for folder in ("features", ".steps.backup"):
        (work / folder).mkdir()
    others = [".env.template", ".steps.backup", "features", "notes.txt"]
    remove_workdir(work)
    assert sorted(path.name for path in work.iterdir()) == others
    # Nor is anything in a folder that no fit has marked.
    (work / "steps").mkdir()
    remove_workdir(work)
    assert sorted(path.name for path in work.iterdir()) == [*others, "steps"]


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`workdir` must be a new or empty folder.*thesis\.txt"):
        WorkFolder(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("continued", [False, True])
def test_a_removal_that_was_interrupted_leaves_no_step_and_is_finished_by_the_next(
    continued, tmp_path, monkeypatch
):
    work = tmp_path / "work"
    steps = WorkFolder(work, {})
    steps.save("features", _arrays())
    steps.save("penultimate", _arrays())

    def interrupted(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("letkd_keras.prototypes.steps.shutil.rmtree", interrupted)
        remove_workdir(work)
    if continued:
        again = WorkFolder(work, {})
        assert not again.has("features") and not again.has("penultimate")
    remove_workdir(work)
    assert not list(tmp_path.iterdir())


def test_a_second_process_is_refused_while_steps_run(tmp_path):
    first, second = WorkFolder(tmp_path, {}), WorkFolder(tmp_path, {})
    in_use = pytest.raises(ValueError, match=r"`workdir` .* is in use by process \d+ on")
    with first.locked(), in_use, second.locked():
        pytest.fail("two processes ran")
