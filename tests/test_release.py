"""What a release consists of: versions that agree, workflows of make targets, badges."""

import re
import tomllib
from pathlib import Path

import pytest

import letkd_keras

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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


def test_pythons_of_the_workflow_are_the_lowest_and_the_newest():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    prefix = "Programming Language :: Python :: 3."
    minors = [int(c.removeprefix(prefix)) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    wanted = [f"3.{min(minors)}", f"3.{max(minors)}"]
    assert jobs["fast"]["strategy"]["matrix"]["python"] == wanted
    assert PROJECT["requires-python"] == f">={wanted[0]}"


def test_badges_are_those_of_the_repository():
    """Without an address there is no badge, since it would lead nowhere."""
    repository = PROJECT["urls"].get("Repository")
    badges = set(re.findall(r"https://colab\.research\.google\.com/[^)\s]+", _text("README.md")))
    if repository is None:
        assert not badges
    else:
        notebooks = repository.replace("https://github.com/", "github/") + "/blob/main/examples"
        colab = f"https://colab.research.google.com/{notebooks}"
        assert f"{colab}/letkd_in_fifteen_minutes.ipynb" in badges
        assert all(badge.startswith(colab) or badge.endswith(".svg") for badge in badges)


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
