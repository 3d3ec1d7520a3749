"""Every command refuses bad input by one sentence, with exit status 2, and writes nothing."""

import importlib.util
import re
import subprocess
import sys

import pytest
from bad_inputs import read_table
from material import make_material, make_results

TABLE = read_table()
# Far more than any of them needs; one that begins to train takes longer.
_SECONDS = 30


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    folder = make_material(tmp_path_factory.mktemp("bad_inputs") / "material")
    make_results(folder)
    return folder


def test_the_table_is_large_enough():
    lines = [row.line for rows in TABLE.values() for row in rows]
    assert len(lines) >= 150
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{row.line}")
        for heading, rows in TABLE.items()
        for row in rows
    ],
)
def test_bad_input_is_refused_by_one_sentence(row, material, tmp_path):
    if ".pth" in row.line and importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch")
    if ".safetensors}" in row.line and importlib.util.find_spec("safetensors") is None:
        pytest.skip("needs safetensors")
    ended = row.run(material, tmp_path)
    assert not ended.traceback, ended.traceback
    assert ended.status == 2
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert re.fullmatch(row.pattern, ended.stderr.removeprefix("error: ").rstrip("\n"))
    assert ended.changed == ()
    assert not list(tmp_path.rglob("code-was-run"))
    assert ended.seconds < _SECONDS


@pytest.mark.parametrize(
    ("module", "words", "sentence"),
    [
        ("recipes.digits", "--templates 0", "error: --templates must be an integer of at least 1"),
        ("recipes.compare", "--methods kdd", "error: --methods must be of "),
        ("prototypes", "--inspect missing.npz", "error: No prototypes at missing.npz"),
        ("export", "missing.keras --out out", "error: `model` must be a .keras file or a run fol"),
        ("data", "--data digitz --out d.npz", "error: --data must be digits, cifar10, "),
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
