import os
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def in_a_process(script, *arguments, **environment):
    """Run a script of this folder in a process of its own.

    Returns:
        Its `subprocess.CompletedProcess`, output as text.
    """
    paths = [str(_HERE), str(_HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, _HERE / script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
