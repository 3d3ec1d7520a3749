import os
import subprocess
import sys
from pathlib import Path

_HELPERS = Path(__file__).parent
_PROGRAMS = _HELPERS.with_name("programs")


def in_a_process(script, *arguments, **environment):
    """Run a script of tests/programs in a process of its own.

    Returns:
        Its `subprocess.CompletedProcess`, output as text.
    """
    paths = [str(_PROGRAMS), str(_HELPERS), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, _PROGRAMS / script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
