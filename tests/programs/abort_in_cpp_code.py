"""Abort while what C++ code writes goes to a log file: abort_in_cpp_code.py FILE."""

import os
import sys

# Only `python -m` makes the package's own import light.
sys.orig_argv = ["python", "-m", "letkd_keras"]

from letkd_keras.commands.log_file import logged_to, stderr_to_log  # noqa: E402
from letkd_keras.commands.terminal_log import set_up_logging  # noqa: E402

set_up_logging()
with logged_to(sys.argv[1]), stderr_to_log():
    os.write(2, b"F0000 check failed\n")
    os.abort()
