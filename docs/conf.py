"""Settings of the documentation site: `make docs` builds it into build/docs."""

import inspect
import json
import os
import re
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "examples"))
from badges import with_badge  # noqa: E402

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"].replace("-", "_")
author = "the authors of letkd_keras"
copyright = author
version = release = _PROJECT["version"]

# The address of the repository is stated once, as `Repository` under [project.urls] of
# pyproject.toml. On GitHub Actions it is known anyway. Without it, the site has no Colab badges and
# no links to the repository.
_ON_ACTIONS = os.environ.get("GITHUB_REPOSITORY")
repository = _PROJECT["urls"].get(
    "Repository", f"https://github.com/{_ON_ACTIONS}" if _ON_ACTIONS else None
)

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["results"]
templates_path = []

# === Pages and notebooks ===
# Notebooks in the repository have their outputs. The site shows copies of them and runs nothing.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
# IPython's lexer does not know commands of several lines, and reads them in a relaxed mode.
suppress_warnings = ["misc.highlighting_failure"]

highlight_language = "text"

# === API ===
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_inherit_docstrings = False  # Keras' own methods are documented by Keras
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
napoleon_custom_sections = [("Call arguments", "params_style"), ("Reference", "notes_style")]
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"  # docstrings have single backticks, as those of Keras do
nitpicky = True
nitpick_ignore_regex = [
    (r"py:(class|exc|obj)", r"(?!letkd_keras).*"),  # Python's and Keras' have no page here
    (r"py:class", r"letkd_keras\.distillers\.\w+\.(TrainStep|StepOnWorkers)"),  # of each backend
]

# === Look ===
html_theme = "furo"
html_title = "letkd_keras"
html_static_path = []
html_theme_options = (
    {"source_repository": repository, "source_branch": "main", "source_directory": "docs/"}
    if repository
    else {}
)

# === Links ===
linkcheck_timeout = 20
linkcheck_retries = 2


def _code_blocks(lines):
    """Mark the indented formulas of a docstring as code, which reStructuredText wants marked.

    A docstring of this package is written as those of Keras: a formula is a paragraph that is
    indented by four columns more than the text before it.
    """
    marked = []
    fenced = False
    for number, line in enumerate(lines):
        text = line.strip()
        if text.startswith("```"):
            fenced = not fenced
            indent = line[: len(line) - len(line.lstrip())]
            marked += [f"{indent}.. code-block:: python", ""] if fenced else [""]
            continue
        if fenced:
            marked.append(f"    {line}" if text else line)
            continue
        before = next((other for other in reversed(lines[:number]) if other.strip()), "")
        follows_empty = number > 0 and not lines[number - 1].strip()
        deeper = _indent(line) == _indent(before) + 4
        if text and follows_empty and deeper and not text.startswith(("- ", "* ", "..")):
            marked += [" " * _indent(before) + "..  code-block:: text", ""]
        marked.append(_separate(line))
    return marked


def _separate(line):
    """Put an escaped space between a word in backticks and what follows it, as in `size`^2."""
    return re.sub(r"(?<!`)(`[^`]+`)(?=[\w^])", r"\1\\ ", line)


def _indent(line):
    return len(line) - len(line.lstrip())


def _signature(app, what, name, obj, options, signature, returns):
    """The arguments of `__init__`: those of Keras' `__new__` are `*args, **kwargs`."""
    if what == "class" and isinstance(obj, type) and obj.__init__ is not object.__init__:
        _, *others = inspect.signature(obj.__init__).parameters.values()
        return str(inspect.Signature(others)), None
    return None


def _bases(app, name, obj, options, bases):
    """In place of private base classes, and of `Loss`, which has no page, theirs."""
    while any(map(_is_hidden, bases)):
        bases[:] = [
            ancestor
            for base in bases
            for ancestor in (base.__bases__ if _is_hidden(base) else (base,))
        ]


def _is_hidden(base):
    return base.__name__.startswith("_") or base.__module__ == "letkd_keras.losses.loss"


def _docstring(app, what, name, obj, options, lines):
    lines[:] = _code_blocks(lines)


def _links_out_of_docs(app, docname, source):
    """Links to files of the repository, which GitHub follows, for readers of the site.

    A notebook, or a page of the repository's root, that is a page of the site too becomes a link
    to it. Other files are linked where they are in the repository, or named only where that is not
    known.
    """

    def replaced(match):
        text, file, anchor = match.groups()
        if file.endswith(".ipynb"):
            return f"[{text}](/{file})"
        page = f"{Path(file).stem.lower()}.md"
        if file.endswith(".md") and (DOCS / page).exists():
            return f"[{text}](/{page}{anchor or ''})"
        return f"[{text}]({repository}/blob/main/{file}{anchor or ''})" if repository else text

    if Path(app.env.doc2path(docname)).suffix == ".md":
        source[0] = re.sub(r"\[([^\]]+)\]\(\.\./([^)#]+)(#[^)]+)?\)", replaced, source[0])


def _copy_notebooks(app):
    """`examples/` of the repository becomes a folder of the site.

    A link to a page leads to the page of the site. Where the address of the repository is known,
    a badge under the title opens the notebook in Colab, and the first cell installs the package.
    """
    copies = DOCS / "examples"
    copies.mkdir(exist_ok=True)
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        contents = json.loads(notebook.read_text())
        # Commands that begin with `!` are not Python.
        contents["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
        for cell in contents["cells"]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"]).replace("](../docs/", "](../")
                cell["source"] = re.sub(
                    r"(?<=\]\(\.\./)[A-Z]+(?=\.md)", lambda m: m[0].lower(), text
                )
        text = json.dumps(with_badge(contents, repository, notebook.name))
        copy = copies / notebook.name
        if not copy.exists() or copy.read_text() != text:  # Sphinx reads what is newer
            copy.write_text(text)


def setup(app):
    """Connect the functions above."""
    app.connect("builder-inited", _copy_notebooks)
    sys.path.insert(0, str(ROOT))
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-process-bases", _bases)
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # before napoleon
    app.connect("source-read", _links_out_of_docs)
