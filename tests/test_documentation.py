"""The pages and what they refer to: files, headings, and pages that the code names."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import letkd_keras

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "api").glob("*.md")),
]


def _without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def _links(text):
    return re.findall(r"\[[^\]]+\]\(([^)\s]+)\)", _without_code(text))


def _anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _without_code(page.read_text()), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for link in _links(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue  # another site: `make links`
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), link


def test_links_of_notebooks_lead_to_files():
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        for cell in json.loads(notebook.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                for link in _links("".join(cell["source"])):
                    assert link.startswith("https:") or (notebook.parent / link).exists(), link


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for index in (ROOT / "docs" / "index.md", ROOT / "docs" / "api" / "index.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(), re.DOTALL):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {index.parent.relative_to(ROOT / "docs") / name for name in names}
    pages = {
        page.relative_to(ROOT / "docs").with_suffix("")
        for page in PAGES
        if ROOT / "docs" in page.parents
    }
    notebooks = {Path("examples", file.stem) for file in (ROOT / "examples").glob("*.ipynb")}
    assert listed == (pages | notebooks) - {Path("index")}


def test_pages_that_the_code_names_exist():
    for folder in ("letkd_keras", "recipes", "export", "benchmarks", "tests", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            for page in re.findall(r"\bdocs/[\w/]+\.md\b", file.read_text()):
                assert (ROOT / page).exists(), (file, page)


def test_files_that_pages_name_exist():
    named = r"`((?:letkd_keras|recipes|export|benchmarks|tests|docs|examples)/[\w/.-]+\.\w+)`"
    for page in (*PAGES, ROOT / "tests" / "golden" / "README.md"):
        for file in re.findall(named, page.read_text()):
            assert (ROOT / file).exists(), (page, file)


def test_the_api_pages_have_every_public_name():
    pages = {page.stem: page.read_text() for page in (ROOT / "docs" / "api").glob("*.md")}
    for module in set(pages) - {"index"}:
        listed = set(re.findall(r"^\.\. auto\w+:: (\w+)$", pages[module], re.MULTILINE))
        listed |= set(re.findall(r"^`([A-Z_]+)` is the table", pages[module], re.MULTILINE))
        assert listed == set(importlib.import_module(f"letkd_keras.{module}").__all__), module
    assert set(re.findall(r"[`, ]letkd\.(\w+)[ `]", pages["index"])) == set(letkd_keras.__all__)
    assert set(pages) - {"index"} <= set(letkd_keras.__all__)  # every sub-package
    assert dir(letkd_keras) == letkd_keras.__all__


def test_labels_of_the_diagram_can_be_read_on_a_telephone():
    path = ROOT / "docs" / "pictures" / "letkd_diagram.py"
    spec = importlib.util.spec_from_file_location("letkd_diagram", path)
    diagram = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diagram)
    figure = diagram.draw()
    # A screen of 360 pixels with margins of 16, and 96 pixels per inch at full size.
    scale = 328 / (96 * figure.get_figwidth())
    assert min(text.get_fontsize() * 96 / 72 * scale for text in figure.axes[0].texts) > 10
