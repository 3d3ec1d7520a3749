"""Run the notebooks beside this file and keep their outputs (`make notebooks`).

python examples/run_notebooks.py                       # all of them
python examples/run_notebooks.py adding_a_loss_or_method

Messages of libraries on stderr and TensorFlow's warnings are not kept.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

_NOISE = ("WARNING:", "INFO:tensorflow")


def run(path):
    """Execute a notebook in a new folder and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        for program in path.parent.glob("*.py"):  # which a notebook may call
            shutil.copy(program, folder)
        resources = {"metadata": {"path": folder}}
        nbclient.NotebookClient(notebook, timeout=3600, resources=resources).execute()
    keep_results(notebook)
    nbformat.write(notebook, path)


def keep_results(notebook):
    """Leave out what differs from run to run and from machine to machine."""
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_warnings, cell.outputs) if output]


def _without_warnings(output):
    if output.output_type == "stream":
        lines = output.text.splitlines(keepends=True)
        output.text = "".join(line for line in lines if not line.startswith(_NOISE))
        if output.name == "stderr" or not output.text.strip():
            return None
    return output


if __name__ == "__main__":
    folder = Path(__file__).parent
    for name in sys.argv[1:] or sorted(path.stem for path in folder.glob("*.ipynb")):
        print(name)
        run(folder / f"{name}.ipynb")
