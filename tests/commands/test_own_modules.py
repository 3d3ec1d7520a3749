import sys

import pytest

from letkd_keras.commands.command_line import Parser
from letkd_keras.commands.common_options import add_import_option
from letkd_keras.commands.own_modules import import_modules


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_option_imports_the_modules_in_order(folder):
    (folder / "own_first.py").write_text("rows = []\n")
    (folder / "own_second.py").write_text("import own_first\n\nown_first.rows.append(2)\n")
    parser = Parser("letkd_keras.example", "What it does.")
    add_import_option(parser)
    assert parser.parse_args([]).imports == []
    assert parser.parse_args(["--import", "own_first", "own_second"]).imports == [
        "own_first",
        "own_second",
    ]
    assert sys.modules["own_first"].rows == [2]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("own_absent", "No module named 'own_absent'"),
        ("own.py", "No module named 'own'"),
        ("./own.py", "a name has no path and no suffix"),
        (".own", "a name has no path and no suffix"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(name, reason):
    with pytest.raises(ValueError, match="`import` must be the name of a module") as caught:
        import_modules([name])
    assert str(caught.value).endswith(f"Received: import={name} ({reason})")


def test_an_error_of_the_module_is_its_own(folder):
    (folder / "own_wrong.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_modules(["own_wrong"])
