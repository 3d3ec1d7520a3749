"""Put Colab badges into README and the notebooks beside this file (`make badges`).

python examples/badges.py

The address of the repository is `Repository` under [project.urls] of pyproject.toml. Each notebook
gets a badge under its title and a first cell that installs the package, which does something in
Colab only. README gets a badge behind its link to the first notebook. Without an address, badges
and cells are removed.
"""

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_BADGE = re.compile(r"\n*\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")
_README_LINK = "](examples/letkd_in_fifteen_minutes.ipynb)**"
_SETUP_ID = "colab-setup"
_SETUP = """\
# Only in Colab: install the package, and work in the folder of this notebook.
import sys

if "google.colab" in sys.modules:
    !git clone -q --depth 1 {repository} repository
    %pip install -q "./repository[export,datasets]"
    %cd -q repository/examples
"""


def badge(repository, notebook):
    """The badge, in Markdown, that opens a notebook in Colab.

    Args:
        repository: Address on GitHub.
        notebook: Name of a file of `examples/`.
    """
    colab = "https://colab.research.google.com"
    path = repository.removesuffix("/").removesuffix(".git").replace("https://github.com", "github")
    return (
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]"
        f"({colab}/{path}/blob/main/examples/{notebook})"
    )


def with_badge(contents, repository, name):
    """A notebook with a badge and the cell that installs the package, or without.

    Args:
        contents: The notebook, as JSON.
        repository: Address on GitHub, or `None`.
        name: Name of its file.

    Returns:
        Another notebook, as JSON.
    """
    title, *cells = (cell for cell in contents["cells"] if cell.get("id") != _SETUP_ID)
    first, *rest = _BADGE.sub("", "".join(title["source"])).split("\n")
    badges = ["", badge(repository, name)] if repository else []
    title = {**title, "source": "\n".join([first, *badges, *rest]).splitlines(keepends=True)}
    if repository:
        setup = _SETUP.format(repository=repository).rstrip("\n").splitlines(keepends=True)
        cell = {"cell_type": "code", "id": _SETUP_ID, "metadata": {}, "outputs": []}
        cells.insert(0, {**cell, "execution_count": None, "source": setup})
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    numbers = {id(cell): number for number, cell in enumerate(code, start=1)}
    cells = [
        {**cell, "execution_count": numbers[id(cell)]} if id(cell) in numbers else cell
        for cell in cells
    ]
    return {**contents, "cells": [title, *cells]}


def main(root=ROOT):
    """Write README and the notebooks.

    Args:
        root: Folder of the repository.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    repository = project["urls"].get("Repository")
    readme = root / "README.md"
    text = _BADGE.sub("", readme.read_text())
    if repository:
        shown = badge(repository, "letkd_in_fifteen_minutes.ipynb")
        text = text.replace(_README_LINK, f"{_README_LINK}\n{shown}", 1)
    readme.write_text(text)
    for path in sorted((root / "examples").glob("*.ipynb")):
        contents = with_badge(json.loads(path.read_text()), repository, path.name)
        path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n")
    print(f"badges of {repository}" if repository else "no Repository in pyproject.toml: no badges")


if __name__ == "__main__":
    main()
