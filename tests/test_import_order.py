"""Imports go one way: up the table of CONTRIBUTING, "Where things are"."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"letkd_keras": "", "recipes": "recipes.", "export": "export."}
# These say what there is: public names, and what can be run.
EXEMPT = ("__init__", "__main__")


def _rows():
    """Row, from the top, of each module or package, named as below `letkd_keras`."""
    rows = {}
    for number, line in enumerate((ROOT / "CONTRIBUTING.md").read_text().splitlines()):
        if not line.startswith("| `"):
            continue
        first, *others = re.findall(r"`([\w/]+)(?:\.py)?`", line.split("|")[1])
        folder, _, name = first.rstrip("/").rpartition("/")
        if not folder:  # one of the root's folders, as a whole
            folder, name = name, ""
        if folder in FOLDERS:
            names = [name, *(other.rstrip("/") for other in others)]
            rows |= {f"{FOLDERS[folder]}{name}".rstrip("."): number for name in names}
    return rows


ROWS = _rows()


def _row_name(module):
    """The name in the table that a module belongs to: its own, or that of its package."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in ROWS), None)


def _modules():
    for folder, prefix in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "letkd_keras" and parts[0] in FOLDERS:  # links to the root's folders
                continue
            if len(parts) > 1 or parts[0] not in EXEMPT:
                yield prefix + ".".join(parts), file


def _imported(file):
    """What a module imports from `letkd_keras`, wherever the statement stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        yield from (n.removeprefix("letkd_keras.") for n in names if n.startswith("letkd_keras."))


def test_the_table_has_every_module():
    found = {module: _row_name(module) for module, _ in _modules()}
    assert [module for module, name in found.items() if name is None] == []
    assert set(found.values()) == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_modules_import_only_what_is_above_them(name):
    below = [
        f"{file.relative_to(ROOT)} imports {imported}"
        for module, file in _modules()
        if _row_name(module) == name
        for imported in _imported(file)
        if ROWS.get(_row_name(imported), 0) > ROWS[name]
    ]
    assert not below
