import pytest

from letkd_keras.commands.command_line import Parser
from letkd_keras.commands.common_options import add_engine_options


def _parser():
    parser = Parser("letkd_keras.example", "What it does.")
    add_engine_options(parser)
    return parser


def test_an_engine_and_its_workers():
    options = _parser().parse_args([])
    assert (options.engine, options.workers) == ("local", None)
    options = _parser().parse_args(["--engine", "ray", "--workers", "2"])
    assert (options.engine, options.workers) == ("ray", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--engine ray", "--engine ray needs --workers N"),
        ("--workers 2", "--workers needs --engine ray. Received: --workers 2"),
        (
            "--engine rai",
            "--engine must be one of local, ray. Received: 'rai'. Did you mean ray?",
        ),
        (
            "--engine ray --workers 0",
            "--workers must be an integer of at least 1. Received: '0'",
        ),
    ],
)
def test_an_engine_and_its_workers_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        _parser().parse_args(arguments.split())
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"
