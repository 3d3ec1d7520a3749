"""Imports go one way: up the table of CONTRIBUTING, "Where things are"."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Row of each name below `letkd_keras`, from the top.
ROWS = {
    re.sub(r"\.py$|^letkd_keras[./]|/$", "", name): number
    for number, line in enumerate((ROOT / "CONTRIBUTING.md").read_text().splitlines())
    if line.startswith("| `")
    for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    if name not in ("export/", "recipes/", "docs/", "tests/")
}
# These say what there is: public names, and what can be run.
EXEMPT = ("__init__", "__main__")


def _modules():
    folders = {"": ROOT / "letkd_keras", "recipes": ROOT / "recipes", "export": ROOT / "export"}
    for package, folder in folders.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            name = package or parts[0]
            if not package and parts[0] in ("recipes", "export"):  # links to the root's folders
                continue
            if name not in EXEMPT:
                yield name, file


def _imported(file):
    """Names below `letkd_keras` that a module imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "letkd_keras":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("letkd_keras."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            names = (name.name.split(".") for name in node.names)
            yield from (parts[1] for parts in names if parts[0] == "letkd_keras" and parts[1:])


def test_the_table_has_every_module():
    assert {name for name, _ in _modules()} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_modules_import_only_what_is_above_them(name):
    below = [
        f"{file.relative_to(ROOT)} imports {imported}"
        for own, file in _modules()
        if own == name
        for imported in _imported(file)
        if imported in ROWS and ROWS[imported] > ROWS[name]
    ]
    assert not below
