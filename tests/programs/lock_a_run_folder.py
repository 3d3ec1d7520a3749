"""Lock the run folder that is named; with `--kill` die in the middle."""

import os
import signal
import sys

# As a command does it, so that nothing heavy is imported.
sys.orig_argv = ["python", "-m", "letkd_keras.recipes"]

from letkd_keras.commands.command_line import run_main  # noqa: E402
from letkd_keras.commands.run_folder import RunFolder  # noqa: E402


def main():
    with RunFolder(sys.argv[1], {"seed": 1}).locked():
        if "--kill" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)


run_main(main)
