"""The log file of a command, and what C++ code writes to stderr.

Only the standard library is imported. The terminal shows this package's messages; the log file has
those of all packages.
"""

import logging
import os
import re
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

_LOGGER = logging.getLogger("stderr")
# Written before a log file is open; the last lines are enough.
_waiting = []
_MOST_WAITING = 1000


@contextmanager
def recorded():
    """A scope whose messages are kept, for `logged_to` once there is a folder for its file.

    Yields:
        List of logging records, which grows.
    """
    handler, records = logging.Handler(), []
    handler.emit = records.append
    with _handled_by(handler):
        yield records


@contextmanager
def logged_to(path, earlier=()):
    """A scope in which the messages of all packages are also written to a file.

    Args:
        path: The file. Messages are appended. The file and its folder are created with the first
            message.
        earlier: Records of `recorded`, which are written before the first message, or at the end. A
            command that refuses before it writes a message leaves no file.
    """
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.earlier = list(earlier)
    with _handled_by(handler):
        yield
        handler.write_earlier()


@contextmanager
def _handled_by(handler):
    root, package = logging.getLogger(), logging.getLogger("letkd_keras")
    levels = root.level, package.level
    root.addHandler(handler)
    root.setLevel(min(logging.INFO, root.level))
    package.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
        for logger, level in zip((root, package), levels, strict=True):
            logger.setLevel(level)


class _LogFile(logging.FileHandler):
    """A log file that begins with what C++ code and commands wrote before it was opened.

    Attributes:
        earlier: Records to write before the first one.
    """

    earlier = ()

    def emit(self, record):
        self.write_earlier()
        super().emit(record)

    def write_earlier(self):
        earlier, self.earlier = self.earlier, ()
        for record in earlier:
            super().emit(record)

    def _open(self):
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        stream = super()._open()
        stream.write("".join(_waiting))
        _waiting.clear()
        return stream

    def handleError(self, record):
        """Leave a message out. A full disk is reported by the code that writes results."""

    def close(self):
        with suppress(OSError):
            super().close()


@contextmanager
def stderr_to_log():
    """A scope in which what C++ code writes to stderr goes to the log file.

    TensorFlow and its converters write much there that concerns nobody. The file descriptor is
    redirected, since they know nothing of `sys.stderr`. Where the scope ends with an exception,
    errors that were written are shown as well.
    """
    sys.stderr.flush()
    with _sink() as (sink, is_log_file):
        start = sink.seek(0, os.SEEK_END)
        original = os.dup(2)
        os.dup2(sink.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            sink.seek(start)
            lines = sink.read().decode(errors="replace").splitlines(keepends=True)
            if not is_log_file:
                _waiting.extend(lines)
                del _waiting[:-_MOST_WAITING]
            if failed:
                for line in filter(_is_error, lines):
                    _LOGGER.error("%s", line.rstrip())


@contextmanager
def _sink():
    """The open log file, so that even the last words of a process that aborts are in it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogFile):
            handler.acquire()
            try:
                handler.stream = handler.stream or handler._open()
                handler.flush()
            finally:
                handler.release()
            with Path(handler.baseFilename).open("a+b") as file:
                yield file, True
            return
    with tempfile.TemporaryFile() as file:
        yield file, False


def _is_error(line):
    return re.match(r"[EF]\d{4} ", line) or re.search(r"\berror:", line)
