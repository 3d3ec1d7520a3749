"""The notebook of "From photos to a phone": photos to an int8 file that classifies them."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from letkd_keras.data import load_cifar

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "from_photos_to_a_phone.ipynb"


@pytest.mark.parametrize("words", [[], ["--help"], ["a", "b"]], ids=["none", "help", "two"])
@pytest.mark.parametrize("name", ["cifar_as_photos", "digits_as_files"])
def test_without_one_folder_the_examples_say_what_they_do(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit, match=f"python examples/{name}.py"):
        runpy.run_path(EXAMPLES / f"{name}.py", run_name="__main__")
    assert not list(tmp_path.iterdir())


def test_the_notebook_has_its_outputs():
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 2
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    # Nor a folder for temporary files; `test_notebook` refuses other paths of a machine.
    assert "/tmp/" not in "".join(output.get("text", "") for output in outputs)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ai_edge_litert")
    try:
        load_cifar("cifar100")
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(str(error))
    # `!python` is the Python of the test.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    shutil.copy(EXAMPLES / "cifar_as_photos.py", tmp_path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    exported = tmp_path / "runs" / "phone" / "exported"
    assert (exported / "student_int8.tflite").stat().st_size > 1e5
    assert len((exported / "labels.txt").read_text().splitlines()) == 5
    report = json.loads((tmp_path / "runs" / "phone" / "report.json").read_text())
    # Five classes: chance is 20%.
    accuracies = {name: row["accuracy_last_mean"] for name, row in report["methods"].items()}
    assert set(accuracies) == {"student", "kd", "letkd2+dkd"}
    assert min(report["teacher"]["accuracy_last"], *accuracies.values()) > 40
    text = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "photos/val/castle/000.jpg" in text and "photos/val/sunflower/000.jpg" in text
