import logging
import subprocess
import sys

from letkd_keras.commands import terminal_log
from letkd_keras.commands.log_file import logged_to


def test_messages_of_other_packages_are_hidden():
    def record(name, level):
        return logging.LogRecord(name, level, "", 0, "", (), None)

    assert terminal_log._is_shown(record("letkd_keras.prototypes", logging.INFO))
    assert not terminal_log._is_shown(record("tensorflow", logging.WARNING))
    assert not terminal_log._is_shown(record("absl", logging.INFO))
    assert not terminal_log._is_shown(record("py.warnings", logging.WARNING))
    assert not terminal_log._is_shown(record("letkd_keras.callbacks", logging.DEBUG))
    assert terminal_log._is_shown(record("tensorflow", logging.ERROR))


def test_hidden_messages_are_in_the_log_file_only(tmp_path, capsys):
    log, handler = logging.getLogger("letkd_keras.example"), terminal_log._TerminalHandler()
    logging.getLogger().addHandler(handler)
    try:
        with logged_to(tmp_path / "log.txt"):
            with terminal_log.hidden_messages():
                log.warning("hidden")
                log.error("an error")
            log.info("shown")
    finally:
        logging.getLogger().removeHandler(handler)
    assert capsys.readouterr().err == "an error\nshown\n"
    assert "WARNING hidden\n" in (tmp_path / "log.txt").read_text()


def test_messages_are_wrapped_in_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    record = logging.LogRecord("letkd_keras", logging.INFO, "", 0, 8 * "word ", (), None)
    terminal_log._TerminalHandler().emit(record)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    terminal_log._TerminalHandler().emit(record)
    in_a_pipe, *in_a_terminal = capsys.readouterr().err.splitlines()
    assert in_a_pipe == 8 * "word "
    assert in_a_terminal == ["word word word word", "  word word word", "  word"]


def test_warnings_of_python_are_messages_of_another_package():
    program = (
        "import warnings\n"
        "from letkd_keras.commands.terminal_log import set_up_logging\n"
        "set_up_logging()\n"
        "warnings.warn('of a library')\n"
    )
    arguments = ["-m", "letkd_keras"]  # as a command, which imports only what it needs
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")
