"""Every command refuses bad input by one sentence, with exit status 2, and writes nothing."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs import read_table
from material import make_material, make_results

from letkd_keras.data import loaders

TABLE = read_table()


@pytest.fixture(scope="module", autouse=True)
def digits_read_once():
    """Most commands read them, which takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "load_digits", functools.cache(loaders.load_digits))
        yield


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = make_material(tmp_path_factory.mktemp("bad_inputs") / "material")
    make_results(folder)
    return folder


def test_the_page_has_the_number_of_rows():
    lines = [row.line for rows in TABLE.values() for row in rows]
    page = Path(__file__).parents[2] / "docs" / "reliability.md"
    assert f"`tests/campaign/bad_command_lines.txt` | {len(lines)} |" in page.read_text()
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{row.line}")
        for heading, rows in TABLE.items()
        if heading != "Weights of PyTorch"  # test_bad_weights.py
        for row in rows
    ],
)
def test_bad_input_is_refused_by_one_sentence(row, material, tmp_path):
    row.check(material, tmp_path)


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("recipes.digits", "--templates 0", "error: --templates must be an integer of at least 1"),
        ("recipes.compare", "--methods kdd", "error: --methods must be of "),
        ("export", "missing.keras --out out", "error: `model` must be an existing .keras file or"),
        pytest.param(
            *("prototypes", "--inspect missing.npz", "error: No prototypes at missing.npz"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("data", "--data digitz --out d.npz", "error: --data must be digits, cifar10, "),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_of_its_own_answers_the_same(module, words, sentence, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", f"letkd_keras.{module}", *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(sentence) and done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())
