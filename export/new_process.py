"""Running artifacts in a new process, without this package."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from letkd_keras.export.comparison import ExportMismatch

_RELOAD = Path(__file__).parent / "formats" / "reload.py"


def reload_outputs(runtime, artifact, images):
    """Run an artifact in a new process without this package.

    Args:
        runtime: A runtime of `reload.py`: `"savedmodel"`, `"classify"`, `"tflite"` or `"onnx"`.
        artifact: Its path. Loading a SavedModel can run code that it contains.
        images: Array [N, ...], float32, or uint8 for `"classify"`.

    Returns:
        Its outputs, float32 [N, classes].

    Raises:
        ExportMismatch: If it cannot be loaded or run, with the end of that process's messages.
    """
    return reload_in_one_process(artifact, {runtime: images})[runtime]


def reload_in_one_process(artifact, images, threads=1, repeats=0):
    """Do what `reload_outputs` does for several runtimes of an artifact, in one new process.

    Args:
        artifact: Its path.
        images: Dictionary from the runtimes to their images.
        threads: Number of threads.
        repeats: Number of runs to measure, or 0 for outputs.

    Returns:
        Dictionary from the runtimes to what `reload_outputs` returns, or to the seconds of the runs
        that were measured.

    Raises:
        ExportMismatch: If a runtime cannot load or run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        # -E and -P: modules are searched among the installed ones only, not in this folder or
        # PYTHONPATH. -I would leave out those that were installed with `pip install --user`.
        command = [sys.executable, "-E", "-P", _RELOAD, Path(artifact).resolve(), threads, repeats]
        outputs = {runtime: Path(folder, f"{runtime}_outputs.npy") for runtime in images}
        for runtime, file in outputs.items():
            inputs = Path(folder, f"{runtime}_images.npy")
            np.save(inputs, images[runtime])
            command += [runtime, inputs, file]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd=folder
        )
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise ExportMismatch(
                f"{artifact} cannot be reloaded in a new process, which ended with status "
                f"{done.returncode}: {last}"
            )
        return {runtime: np.load(file) for runtime, file in outputs.items()}


def latency_ms(runtime, artifact, images, threads, repeats):
    """Measure how long an artifact takes for a batch, in a new process.

    Args:
        runtime: As for `reload_outputs`.
        artifact: Its path.
        images: The batch.
        threads: Threads of the runtime.
        repeats: Number of runs timed, after three that are not.

    Returns:
        Milliseconds of the fastest run. Slower runs were disturbed by other programs.

    Raises:
        ExportMismatch: If it cannot be loaded or run.
    """
    seconds = reload_in_one_process(artifact, {runtime: images}, threads, repeats)[runtime]
    return 1000 * float(np.min(seconds))
