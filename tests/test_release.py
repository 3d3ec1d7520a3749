"""What a release consists of: versions that agree, workflows of make targets, badges."""

import importlib.util
import re
import shutil
import tomllib
from pathlib import Path

import pytest

import letkd_keras

nbformat = pytest.importorskip("nbformat")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_SPEC = importlib.util.spec_from_file_location("badges", ROOT / "examples" / "badges.py")
badges = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(badges)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def _steps(workflow):
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        yield from ((job, step) for step in job["steps"])


def test_all_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert letkd_keras.__version__ == PROJECT["version"] == citation["version"]
    assert re.search(
        rf"^## {re.escape(PROJECT['version'])} \(", _text("CHANGELOG.md"), re.MULTILINE
    )


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_run_nothing_but_make_targets(workflow):
    targets = set(re.findall(r"^([a-z-]+):(?!=)", _text("Makefile"), re.MULTILINE))
    runs = [(job, step["run"]) for job, step in _steps(workflow) if "run" in step]
    assert runs
    for job, command in runs:
        assert re.fullmatch(r'make [\w-]+( TAG="\$GITHUB_REF_NAME")?|make "\$TARGET"', command)
        if "$TARGET" in command:
            matrix = job["strategy"]["matrix"]
            assert matrix["backend"] == ["tensorflow", "jax"]
            named = {name + suffix for name in matrix["versions"] for suffix in ("", "-jax")}
        else:
            named = {command.split()[1]}
        assert named <= targets


def test_a_release_is_tested_before_it_is_packaged():
    runs = [step["run"] for _, step in _steps(WORKFLOWS[0].parent / "release.yml") if "run" in step]
    assert runs == ['make tag TAG="$GITHUB_REF_NAME"', "make test", "make package"]


def test_pythons_of_the_workflow_are_those_of_the_classifiers():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    prefix = "Programming Language :: Python :: 3."
    minors = [int(c.removeprefix(prefix)) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    wanted = [f"3.{minor}" for minor in sorted(minors)]
    assert jobs["fast"]["strategy"]["matrix"]["python"] == wanted
    assert PROJECT["requires-python"] == f">={wanted[0]}"


@pytest.fixture
def copy(tmp_path):
    """README, notebooks and pyproject.toml in another folder."""
    (tmp_path / "examples").mkdir()
    files = [ROOT / "README.md", ROOT / "pyproject.toml", *(ROOT / "examples").glob("*.ipynb")]
    for file in files:
        shutil.copy(file, tmp_path / file.relative_to(ROOT))
    return tmp_path


def _contents(root):
    files = [root / "README.md", *sorted((root / "examples").glob("*.ipynb"))]
    return {file.name: file.read_text() for file in files}


def _set_address(root, address):
    file = root / "pyproject.toml"
    text = re.sub(r"^Repository = .*\n", "", file.read_text(), flags=re.MULTILINE)
    line = f'Repository = "{address}"\n' if address else ""
    file.write_text(text.replace("[project.urls]\n", f"[project.urls]\n{line}"))


def test_badges_are_those_of_the_repository(copy):
    """Without an address there is no badge, since it would lead nowhere: `make badges`."""
    badges.main(copy)
    assert _contents(copy) == _contents(ROOT)


def test_badges_are_made_changed_and_removed(copy):
    _set_address(copy, None)
    badges.main(copy)
    without = _contents(copy)
    assert not any("colab" in text for text in without.values())
    for address in ("https://github.com/someone/letkd", "https://github.com/other/letkd_keras"):
        _set_address(copy, address)
        badges.main(copy)
        contents = _contents(copy)
        colab = address.replace("https://github.com", "https://colab.research.google.com/github")
        for name, text in contents.items():
            name = name if name != "README.md" else "letkd_in_fifteen_minutes.ipynb"
            assert re.findall(r"\((https://colab[^)]*ipynb)\)", text) == [
                f"{colab}/blob/main/examples/{name}"
            ]
        for file in (copy / "examples").glob("*.ipynb"):
            notebook = nbformat.read(file, as_version=4)
            nbformat.validate(notebook)
            title, setup = notebook.cells[:2]
            assert title.source.startswith("# ") and title.source.splitlines()[1] == ""
            assert f"git clone -q --depth 1 {address} " in setup.source
            assert "google.colab" in setup.source
        badges.main(copy)
        assert _contents(copy) == contents
    _set_address(copy, None)
    badges.main(copy)
    assert _contents(copy) == without


def _text(name):
    return (ROOT / name).read_text()


def test_the_readme_is_short():
    assert len(_text("README.md").splitlines()) <= 120


def test_installs_from_the_folder_are_editable():
    """Else `python -m letkd_keras` in the folder finds a package without recipes and export."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for line in page.read_text().splitlines():
            if line.startswith("pip install") and '".' in line:
                assert " -e " in line, page
