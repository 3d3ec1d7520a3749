"""The text of `--help`."""

import importlib
import re
from pathlib import Path

import pytest

from letkd_keras.__main__ import list_commands
from letkd_keras.commands import help_text
from letkd_keras.commands.command_line import Parser

ROOT = Path(__file__).parents[2]
# Options that programs add by functions of `command_line`.
SHARED = {"--formats", "--out", "--seed"}
DESCRIPTION = """What it does.

    python -m letkd_keras.example --data photos --teacher teacher.keras --student mnv2

A paragraph of several words, which the author has wrapped at a width that is larger than that of
a terminal.

- the first item, which is long enough to be wrapped in a terminal of eighty columns
  and has a second line
- the second item

A table:
  name   what it is
"""


def test_descriptions_are_wrapped():
    assert help_text.wrapped(DESCRIPTION, 60) == [
        "What it does.",
        "",
        "    python -m letkd_keras.example --data photos \\",
        "        --teacher teacher.keras --student mnv2",
        "",
        "A paragraph of several words, which the author has wrapped",
        "at a width that is larger than that of a terminal.",
        "",
        "- the first item, which is long enough to be wrapped in a",
        "  terminal of eighty columns and has a second line",
        "- the second item",
        "",
        "A table:",
        "  name   what it is",
    ]


def test_text_that_fits_stays_as_it_is():
    text = "One line.\n\n    python -m letkd_keras.example --out FILE\n\n  a  b\n  c  d"
    assert help_text.wrapped(text, 78) == text.splitlines()


def test_a_command_is_broken_only_where_it_does_not_fit():
    line = "    python -m letkd_keras.example --out FILE"
    assert help_text.wrapped(line, len(line)) == [line]
    assert help_text.wrapped(line, len(line) - 1) == [
        "    python -m letkd_keras.example \\",
        "        --out FILE",
    ]


def test_words_are_never_broken():
    address = "https://example.org/" + "a" * 60
    assert help_text.wrapped(f"See {address} for more.", 40) == ["See", address, "for more."]


@pytest.mark.parametrize(("optional", "full"), [(2, True), (40, False)])
def test_a_long_usage_names_what_must_be_given(optional, full, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = Parser("letkd_keras.example", "What it does.")
    parser.add_argument("model", metavar="MODEL", help="a model")
    parser.add_argument("--out", metavar="PATH", required=True, help="a file, 100%% of it")
    for number in range(optional):
        parser.add_argument(f"--option-{number}", type=int, metavar="N", help="an option")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    usage, _, rest = capsys.readouterr().out.partition("\n\n")
    if full:
        assert "[-h]" in usage and "[--option-1 N]" in usage
    else:
        assert usage == "usage: python -m letkd_keras.example --out PATH [options] MODEL"
    assert rest.startswith("What it does.\n\n") and rest.count("--option-") == optional


def _help(command, capsys):
    module = importlib.import_module(command)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{command}.__main__")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(list_commands()))
def test_help_of_all_commands_fits_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = _help(command, capsys)
    assert text.startswith(f"usage: python -m {command} ")
    assert max(map(len, text.splitlines())) <= 80
    assert "SUPPRESS" not in text and "(default: )" not in text


def _options(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


def test_options_of_commands_on_the_pages_exist(capsys):
    known = {}
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        text = page.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"python -m (letkd_keras[\w.]*)([^`\n]*)", text):
            if _options(rest) and command not in known:
                known[command] = _options(_help(command, capsys))
            assert _options(rest) <= known.get(command, set()), (page.name, command, rest)
        own = r"python ((?:benchmarks|examples|tests)/[\w/]+\.py)([^`\n]*)"
        for program, rest in re.findall(own, text):
            options = _options((ROOT / program).read_text())
            if program == "benchmarks/kd_level.py":  # they have the names of its sizes
                options |= {"--batch-size", "--grid", "--channels", "--templates", "--calls"}
            assert _options(rest) <= options | SHARED, (page.name, program, rest)
