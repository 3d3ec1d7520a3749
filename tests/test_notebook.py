from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "letkd_in_fifteen_minutes.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=3600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4  # digits, templates, confusion, curves
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.get("text", "") for output in outputs)
    tflite, keras = (
        float(text.split(f"{name} ")[-1].split("%")[0]) for name in ("TFLite", "Keras")
    )
    assert tflite == pytest.approx(keras, abs=0.2)
    assert tflite > 50  # of ten classes: something was learned
    # Committed without what a run puts out.
    assert not any(cell.get("outputs") for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
