"""What a terminal shows of the messages of all packages: those of this one, and errors.

Only the standard library is imported.
"""

import faulthandler
import importlib.util
import logging
import os
import shutil
import sys
from contextlib import contextmanager

from letkd_keras.commands.log_file import stderr_to_log
from letkd_keras.commands.terminal import lines_of_whole_words


def set_up_logging():
    """Show this package's messages and errors of other packages, one line each.

    What TensorFlow writes while it is imported and looks for devices goes to the log file (see
    `letkd_keras.commands.log_file`). It has to be called before TensorFlow is imported.
    """
    # Errors of TensorFlow's C++ code are shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _separate_stderr()
    logging.captureWarnings(True)
    root = logging.getLogger()
    if not root.handlers:
        handler = _TerminalHandler()
        handler.addFilter(_is_shown)
        root.addHandler(handler)
    logging.getLogger("letkd_keras").setLevel(logging.INFO)
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietTensorFlow())


def _is_shown(record):
    if record.name.split(".")[0] == "letkd_keras":
        return record.levelno >= logging.INFO
    return record.levelno >= logging.ERROR


class _TerminalHandler(logging.Handler):
    """Writes messages to `sys.stderr` as it is at that moment, wrapped in a terminal."""

    def emit(self, record):
        try:
            message = self.format(record)
            if sys.stderr.isatty():
                message = _wrapped(message)
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _wrapped(message):
    width = shutil.get_terminal_size().columns
    lines = (lines_of_whole_words(line, width, "  ") for line in message.splitlines())
    return "\n".join("\n".join(line) for line in lines)


@contextmanager
def hidden_messages():
    """A scope whose messages are not shown, since others say the same. Log files have them."""
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, _TerminalHandler)]
    for handler in handlers:
        handler.addFilter(_is_error)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(_is_error)


def _is_error(record):
    return record.levelno >= logging.ERROR


def _separate_stderr():
    """Give Python its own copy of stderr: only C++ code is redirected by `stderr_to_log`."""
    try:
        shared = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # replaced by a program or a test
        return
    if shared:
        sys.stderr = os.fdopen(
            os.dup(2),
            "w",
            buffering=1,
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
        )
        # If the process aborts, the terminal still shows at which line.
        faulthandler.enable(sys.stderr)


class _QuietTensorFlow:
    """Finder of modules: what TensorFlow's C++ code writes during its import goes to the log file.

    Some of it is written before `TF_CPP_MIN_LOG_LEVEL` is read, some because there is no GPU.
    """

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            # The import may come later: a check whether the package is installed asks here too.
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._execute(execute, module)
        return spec

    @staticmethod
    def _execute(execute, module):
        with stderr_to_log():
            execute(module)
            # The drivers are looked for now. TensorFlow can still be configured afterwards.
            if hasattr(module, "config"):
                module.config.list_physical_devices()
