"""What an export leaves in its folder when it is stopped before its end."""

import os
import signal
import subprocess
import sys
import time

import pytest

_COMMAND = [sys.executable, "-m", "letkd_keras.export"]
_QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _stopped_while_writing(student, out, number):
    """Exit status of an export that is sent a signal once it has begun to write an artifact."""
    arguments = [student, "--formats", "savedmodel", "--out", out]
    process = subprocess.Popen(
        [*_COMMAND, *map(str, arguments)], env=_QUIET, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    # The artifact is written and checked in a hidden folder, which takes seconds.
    while not list(out.glob(".savedmodel.*/savedmodel")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate()
    return process.returncode


def _names(folder):
    return {entry.name for entry in folder.iterdir()}


@pytest.mark.slow
def test_stopped_exports_leave_no_half_written_file(student, tmp_path):
    student.save(tmp_path / "student.keras")
    out = tmp_path / "out"
    terminated = _stopped_while_writing(tmp_path / "student.keras", out, signal.SIGTERM)
    assert terminated == 128 + signal.SIGTERM
    assert _names(out) == {"log.txt"}
    # A killed process cannot clean up, but leaves nothing under the name of an artifact.
    killed = _stopped_while_writing(tmp_path / "student.keras", out, signal.SIGKILL)
    assert killed == -signal.SIGKILL
    assert [name for name in _names(out) if not name.startswith(".")] == ["log.txt"]
    again = [*_COMMAND, tmp_path / "student.keras", "--formats", "savedmodel", "--out", out]
    assert subprocess.run(list(map(str, again)), env=_QUIET).returncode == 0
    # The next export removes what the killed one left.
    assert _names(out) == {"savedmodel", "card.json", "card.md", "log.txt"}
