"""`python -m letkd_keras`."""

import sys

import pytest

import letkd_keras
from letkd_keras.__main__ import list_commands, main


@pytest.mark.parametrize(
    ("words", "is_command"),
    [
        ("-m letkd_keras", True),
        ("-X dev -m letkd_keras.data --data digits", True),
        ("-m pytest letkd_keras", False),
        ("train.py letkd_keras.data", False),
    ],
)
def test_a_command_imports_only_what_it_needs(words, is_command, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", *words.split()])
    assert letkd_keras._runs_as_command() is is_command


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_the_commands_are_listed_with_and_without_help(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        main(words)
    except SystemExit as exit:
        assert exit.code == 0
    text = capsys.readouterr().out
    assert {"letkd_keras.export", "letkd_keras.recipes.folder"} <= set(list_commands())
    for module, description in list_commands().items():
        assert f"  python -m {module}\n    {description}\n" in text + "\n"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("export", "export is a command of its own: run python -m letkd_keras.export"),
        ("export --help", "export is a command of its own: run python -m letkd_keras.export"),
        (
            "letkd_keras.recipes.folder --data photos",
            "letkd_keras.recipes.folder is a command of its own: run python -m "
            "letkd_keras.recipes.folder",
        ),
        ("train", "there is no command train. python -m letkd_keras lists the commands"),
        ("recipes.foldr", "there is no command recipes.foldr. Did you mean recipes.folder?"),
        ("--frobnicate", "there is no option --frobnicate. See --help"),
    ],
)
def test_the_name_of_a_command_is_answered_by_how_to_run_it(words, answer, capsys):
    with pytest.raises(SystemExit) as exit:
        main(words.split())
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"error: {answer}\n"
