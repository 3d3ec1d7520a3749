"""The folder of an experiment, while this process works in it."""

from contextlib import contextmanager

from letkd_keras.commands.log_file import logged_to
from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.recipes.trainings import gpus


@contextmanager
def opened(experiment, out, messages):
    """A scope in which an experiment runs in its folder, which no other process writes to.

    Args:
        experiment: `Experiment`, prepared.
        out: Run folder: new, or that of an earlier run with the same settings.
        messages: Records of `recorded`, for the log file of the folder.

    Yields:
        Path of the folder.

    Raises:
        ValueError: If the folder does not fit, another process writes to it, or files of images
            cannot be read in the scope; they are named.
    """
    folder = RunFolder(out, experiment.config(), open_keys=experiment.open_keys)
    with (
        folder.locked(),
        logged_to(folder / "log.txt", messages),
        gpus.scope(),
        experiment.data.broken_files_named(),
    ):
        yield folder.path
