import logging

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
