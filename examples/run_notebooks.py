"""Run the notebooks beside this file and keep their outputs (`make notebooks`).

python examples/run_notebooks.py                       # all of them
python examples/run_notebooks.py adding_a_loss_or_method

Messages of libraries on stderr, TensorFlow's warnings, progress bars and colors are not kept.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

_NOISE = (
    *("WARNING:", "INFO:tensorflow", "I0000 ", "W0000 ", "E0000 "),
    "To enable the following instructions:",
)
# A terminal begins a line again at the first; the second sets colors and moves the cursor.
_AGAIN = re.compile(r"\r|\x1b\[2K")
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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
            outputs = _merged(cell.outputs)
            cell.outputs = [output for output in map(_without_noise, outputs) if output]


def _merged(outputs):
    """Outputs in which what a program wrote to one stream is one text."""
    merged = []
    for output in outputs:
        stream = output.output_type == "stream" and output.name
        if stream and merged and merged[-1].get("name") == stream:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _without_noise(output):
    if output.output_type == "stream":
        lines = output.text.replace("\r\n", "\n").split("\n")
        lines = [_CONTROL.sub("", _AGAIN.split(line)[-1]) for line in lines]
        output.text = "\n".join(line for line in lines if not line.startswith(_NOISE))
        if output.name == "stderr" or not output.text.strip():
            return None
    return output


if __name__ == "__main__":
    folder = Path(__file__).parent
    for name in sys.argv[1:] or sorted(path.stem for path in folder.glob("*.ipynb")):
        print(name)
        run(folder / f"{name}.ipynb")
