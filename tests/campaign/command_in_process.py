"""Run commands in the process of the tests, as `python -m` does, and see how they end."""

import contextlib
import importlib
import io
import logging
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from letkd_keras.commands.command_line import run_main


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Exit status; `None` after an exception that is not a refusal.
        stdout: What it printed.
        stderr: What it wrote to stderr, without log lines.
        traceback: The traceback of such an exception.
        seconds: How long it took.
        changed: Files that appeared, went or changed in the working folder, apart from locks, the
            log of a run, and the paths in the `config.json` of a run that was copied.
    """

    status: int | None
    stdout: str
    stderr: str
    traceback: str
    seconds: float
    changed: tuple


def run_command(module, arguments, folder):
    """Run the `main` of a module in a working folder.

    Args:
        module: Name of the module, such as `letkd_keras.recipes.digits`.
        arguments: Command line without the program.
        folder: Working folder, whose files are compared.

    Returns:
        `Ended`.
    """
    if importlib.util.find_spec(f"{module}.__main__" if _is_package(module) else module) is None:
        raise ValueError(f"there is no command {module}")
    main = importlib.import_module(f"{module}.__main__" if _is_package(module) else module).main
    before, start = _files(folder), time.monotonic()
    stdout, stderr, error = io.StringIO(), io.StringIO(), ""
    handlers, argv = list(logging.getLogger().handlers), sys.argv
    sys.argv = ["program", *arguments]
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            # Log lines are not refusals. `run_main` sets no handler where there is one.
            logging.getLogger().handlers = handlers or [logging.NullHandler()]
            run_main(main)
    except SystemExit as end:
        status = end.code
    except BaseException as mistake:
        if isinstance(mistake, KeyboardInterrupt):
            raise
        status, error = None, "".join(traceback.format_exception(mistake))
    finally:
        sys.argv = argv
        logging.getLogger().handlers = handlers
    seconds, after = time.monotonic() - start, _files(folder)
    changed = tuple(
        sorted(
            name
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
            and not (name in before and name.endswith("/config.json"))
        )
    )
    return Ended(status, stdout.getvalue(), stderr.getvalue(), error, seconds, changed)


def _is_package(module):
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _files(folder):
    """Size and time of every file below a folder; the lock and the log of a run may change."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if name in (".lock", "log.txt"):
                continue
            status = path.lstat()
            is_folder = name in folders
            found[str(path.relative_to(folder))] = (
                "folder" if is_folder else (status.st_size, status.st_mtime_ns)
            )
    return found
