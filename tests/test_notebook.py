"""The notebooks: they run from top to bottom, and have the outputs of a run."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def _text(outputs):
    plain = (output.get("text", output.get("data", {}).get("text/plain", "")) for output in outputs)
    return "".join(plain)


@each_notebook
def test_outputs_are_kept(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = _outputs(notebook)
    assert len(outputs) > len(code) / 3
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    # Neither paths of a machine nor colors of its terminal, and a page of bearable size.
    assert not re.search(r"/(root|home|work|Users)/|\x1b", _text(outputs))
    assert path.stat().st_size < 2**20


# The notebook about photos has a test of its own: it needs CIFAR-100 and a program beside it.
@pytest.mark.parametrize(
    "path",
    [path for path in NOTEBOOKS if path.stem != "from_photos_to_a_phone"],
    ids=lambda path: path.stem,
)
@pytest.mark.slow
def test_it_runs_from_top_to_bottom(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    kept = [output.output_type for output in _outputs(notebook) if output.output_type != "stream"]
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=3600, resources=folder).execute()
    outputs = _outputs(notebook)
    assert [output.output_type for output in outputs if output.output_type != "stream"] == kept
    if path.stem == "letkd_in_fifteen_minutes":
        assert len([o for o in outputs if "image/png" in o.get("data", {})]) == 4
        tflite, of_keras = (
            float(_text(outputs).split(f"{name} ")[-1].split("%")[0])
            for name in ("TFLite", "Keras")
        )
        assert tflite == pytest.approx(of_keras, abs=0.2)
        assert tflite > 50  # of ten classes: something was learned


def test_kept_outputs_are_what_a_terminal_shows_at_the_end(monkeypatch):
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(EXAMPLES)
    from run_notebooks import keep_results

    written = (
        "a\r\n\x1b[?25l\x1b[2K \x1b[90m--\x1b[0m\r\x1b[2Kepoch 1/4\r\x1b[2Kdone\r\nmea",
        "suring\r\x1b[2Kb\r\n",
    )
    streams = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in written]
    streams.append(nbformat.v4.new_output("stream", name="stderr", text="a library"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=streams)])
    keep_results(notebook)
    (output,) = notebook.cells[0].outputs
    assert output.text == "a\ndone\nb\n"
