import errno
import json
import os
import signal
import socket

import pytest
from in_a_process import in_a_process

from letkd_keras.commands import run_folder
from letkd_keras.commands.run_folder import RunFolder, differences, is_run_folder, read_config


def files_of(folder):
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def test_a_new_folder_keeps_its_configuration(tmp_path):
    folder = RunFolder(tmp_path / "a" / "run", {"seed": 1, "milestones": (3, 4)})
    assert read_config(tmp_path / "a" / "run") == {"seed": 1, "milestones": [3, 4]}
    assert folder / "x" == tmp_path / "a" / "run" / "x"
    assert files_of(folder.path) == ["config.json"]


def test_the_same_configuration_continues_there(tmp_path):
    RunFolder(tmp_path, {"seed": 1})
    (tmp_path / "log.txt").write_text("half a run")
    assert RunFolder(tmp_path, {"seed": 1}).path == tmp_path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seed": 2, "data": {"name": "x", "size": 8}}, "seed: 1 before, 2 now"),
        ({"seed": 1, "data": {"name": "x", "size": 9}}, "data.size: 8 before, 9 now"),
        ({"seed": 1, "data": {"name": "x"}}, "data.size: 8 before, absent now"),
        (
            {"seed": 1, "data": None},
            'data: absent before, null now; data.name: "x" before, absent now; data.size: 8',
        ),
        ({}, 'data.name: "x" before, absent now; data.size: 8 before'),
    ],
)
def test_other_settings_are_refused_and_listed(config, message, tmp_path):
    original = {"seed": 1, "data": {"name": "x", "size": 8}}
    RunFolder(tmp_path, original)
    with pytest.raises(ValueError, match=r"`out` .* holds results of other settings: ") as error:
        RunFolder(tmp_path, config)
    assert message in str(error.value)
    assert read_config(tmp_path) == original


def test_open_keys_may_differ_and_are_kept(tmp_path):
    RunFolder(tmp_path, {"trials": 1, "data": {"source": "a", "digest": "d"}})
    options = {"open_keys": ("trials", "data.source")}
    RunFolder(tmp_path, {"trials": 2, "data": {"source": "b", "digest": "d"}}, **options)
    assert read_config(tmp_path) == {"trials": 2, "data": {"source": "b", "digest": "d"}}
    with pytest.raises(ValueError, match=r"data\.digest: \"d\" before, \"e\" now"):
        RunFolder(tmp_path, {"trials": 2, "data": {"source": "b", "digest": "e"}}, **options)
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {}}, ignore=["a"]) == []


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`workdir` must be a new or empty .*thesis\.txt"):
        RunFolder(tmp_path, {}, argument="workdir")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    assert not is_run_folder(tmp_path)


def test_config_of_another_program_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": 1}')
    with pytest.raises(ValueError, match=r"whose config\.json is of another program"):
        RunFolder(tmp_path, {"seed": 1})
    assert not is_run_folder(tmp_path)
    assert is_run_folder(RunFolder(tmp_path / "b", {}).path)


@pytest.mark.parametrize("content", [b"", b'{"seed": ', b"\xff\xfe", b"[1]"])
def test_damaged_config_is_named_with_the_remedy(content, tmp_path):
    RunFolder(tmp_path, {"seed": 1})
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json") as error:
        RunFolder(tmp_path, {"seed": 1})
    if content != b"[1]":
        assert "is damaged" in str(error.value) and "remove the folder" in str(error.value)


def test_interrupted_first_write_does_not_block_the_folder(tmp_path):
    """What a kill leaves: hidden files of the lock, and files that were not yet renamed."""
    (tmp_path / ".config.json.0a1b2c3d.letkd").mkdir()
    (tmp_path / ".config.json.0a1b2c3d.letkd" / "config.json").write_text('{"se')
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".lock.json").write_text('{"pid": 1, "ho')
    (tmp_path / ".student.keras.k2_9xa1b.letkd").mkdir()
    (tmp_path / ".probe.0a1b2c3d.letkd").write_text("")
    RunFolder(tmp_path, {"seed": 1})
    assert read_config(tmp_path) == {"seed": 1}
    for name in (".DS_Store", ".bashrc", ".env.template", "data.0a1b2c3d.letkd"):
        other = tmp_path / name.strip(".")
        other.mkdir()
        (other / name).write_text("")
        with pytest.raises(ValueError, match="which has no"):
            RunFolder(other, {})


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(ValueError, match=r"`out` must be a folder.*which is a file"):
        RunFolder(tmp_path / "run", {})
    with pytest.raises(ValueError, match="`out` must be a folder that can be written"):
        RunFolder(tmp_path / "run" / "below", {})


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(code, tmp_path, monkeypatch):
    def fails(path, value):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(run_folder, "write_json", fails)
    with pytest.raises(ValueError, match=rf"`out` must .* written \({os.strerror(code)}\)"):
        RunFolder(tmp_path, {})


def test_reading_something_else(tmp_path):
    with pytest.raises(ValueError, match=r"`run` must be a folder with a config\.json"):
        read_config(tmp_path / "none", "run")


# === Locks ===


def test_a_second_user_is_refused_with_process_and_host(tmp_path):
    folder, again = RunFolder(tmp_path, {}), RunFolder(tmp_path, {})
    expected = rf"`out` .* is in use by process {os.getpid()} on {socket.gethostname()}\."
    with folder.locked(), pytest.raises(ValueError, match=expected), again.locked():
        pass
    with folder.locked():
        RunFolder(tmp_path, {})  # as workers do that share it
    with again.locked():
        assert (tmp_path / ".lock.json").exists()
    assert not (tmp_path / ".lock.json").exists()


def test_the_settings_of_a_process_that_was_faster_are_kept(tmp_path, monkeypatch):
    locked = RunFolder.locked

    def after_another(folder):
        monkeypatch.setattr(RunFolder, "locked", locked)
        RunFolder(tmp_path, {"seed": 2})
        return locked(folder)

    monkeypatch.setattr(RunFolder, "locked", after_another)
    with pytest.raises(ValueError, match="seed: 2 before, 1 now"):
        RunFolder(tmp_path, {"seed": 1})
    assert read_config(tmp_path) == {"seed": 2}


def test_another_process_is_refused_until_the_first_is_gone(tmp_path):
    folder = RunFolder(tmp_path, {"seed": 1})
    with folder.locked():
        refused = in_a_process("lock_a_run_folder.py", tmp_path)
    assert refused.returncode == 2
    assert f"process {os.getpid()} on {socket.gethostname()}" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert in_a_process("lock_a_run_folder.py", tmp_path).returncode == 0


def test_the_lock_of_a_killed_process_is_stale(tmp_path):
    RunFolder(tmp_path, {"seed": 1})
    killed = in_a_process("lock_a_run_folder.py", tmp_path, "--kill")
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / ".lock.json").read_text())["pid"] != os.getpid()
    with RunFolder(tmp_path, {"seed": 1}).locked():
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()
