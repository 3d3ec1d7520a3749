"""Commands on a disk that becomes full, and on one that is read-only.

Each refuses by one sentence and leaves no file half written. When there is room again, the same
command ends as if nothing had happened. The disks are real ones, which only root may mount.
"""

import os
import random
import shutil
import subprocess

import kills
import pytest
from command_in_process import run_command

from letkd_keras import files, memory_mapped
from letkd_keras.commands.run_folder import is_own_hidden
from letkd_keras.recipes.trainings.training_state import SaveState

_MOST_STARTS = 60
_SIZE = 24 << 20
_CHECK_ROOM = memory_mapped.check_room


def _mount(*arguments):
    if shutil.which("mount") is None or os.name != "posix":
        pytest.skip("there is no command mount")
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A file system of its own of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def read_only(tmp_path):
    """A file system that cannot be written, with a folder `old` of an earlier run."""
    folder = tmp_path / "read_only"
    (folder / "old").mkdir(parents=True)
    _mount("--bind", folder, folder)
    _mount("-o", "remount,ro,bind", folder)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The files that the commands of kills.py are given."""
    folder = tmp_path_factory.mktemp("given")
    kills.write_given(folder)
    return folder


class _Filling:
    """Fill a disk in the middle of a write, the first of a process or a later one."""

    def __init__(self, disk, patch):
        self.disk, self.writes, self.is_full = disk, 0, False
        for module, name in (
            (files, "_hidden_folder"),
            (memory_mapped, "check_room"),
            (SaveState, "on_epoch_begin"),
        ):
            patch.setattr(module, name, self._filling(getattr(module, name)))

    def begin(self, writes):
        (self.disk / "filler").unlink(missing_ok=True)
        self.writes, self.is_full = writes, False

    def _filling(self, function):
        def wrapped(*arguments, **keywords):
            if function is _CHECK_ROOM:
                self._tick()
                return function(*arguments, **keywords)
            result = function(*arguments, **keywords)
            self._tick()
            return result

        return wrapped

    def _tick(self):
        self.writes -= 1
        if self.writes == 0:
            self.is_full = True
            # A page is left: small files can be written, larger ones in part.
            free = shutil.disk_usage(self.disk).free
            (self.disk / "filler").write_bytes(bytes(max(0, free - 4096)))


def _run(command, given, disk, out):
    words = kills.words(command, given, out)
    return run_command(f"letkd_keras.{command}", words, disk)


def _check_refusal(ended):
    assert not ended.traceback, ended.traceback
    assert ended.status == 2 and "Traceback" not in ended.stderr, ended
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ended.stderr
    return errors[0]


@pytest.mark.parametrize(
    "command",
    [
        "data",
        pytest.param("prototypes", marks=pytest.mark.slow),
        pytest.param("export", marks=pytest.mark.slow),
        pytest.param("recipes.digits", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_sentence_and_no_half_written_file(
    command, given, disk, tmp_path, monkeypatch
):
    undisturbed = tmp_path / "undisturbed"
    assert _run(command, given, tmp_path, undisturbed).status == 0
    expected, numbers, refusals = kills.contents(undisturbed), random.Random(0), 0
    filling, out = _Filling(disk, monkeypatch), disk / "sequence0"
    for start in range(_MOST_STARTS):
        filling.begin(numbers.randint(1, 30) if start else 1)
        ended = _run(command, given, disk, out)
        if ended.status == 0:
            break
        assert filling.is_full, ended
        sentence = _check_refusal(ended)
        assert "No space left on device" in sentence or "bytes" in sentence, sentence
        refusals += 1
        left = [path.name for path in out.rglob(".*") if path.name != ".lock"]
        assert not any(map(is_own_hidden, left)), left
    filling.begin(0)
    assert _run(command, given, disk, out).status == 0
    assert refusals
    assert kills.contents(out) == expected


@pytest.mark.parametrize("command", kills.COMMANDS)
@pytest.mark.parametrize("out", ["new", "old"])
def test_a_read_only_disk_is_refused_before_any_work(command, out, given, read_only, tmp_path):
    words = kills.COMMANDS[command].replace("GIVEN", str(given))
    words = words.replace("OUT", str(read_only / out)).split()
    sentence = _check_refusal(run_command(f"letkd_keras.{command}", words, tmp_path))
    assert "Read-only file system" in sentence
