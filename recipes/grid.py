"""Many methods and seeds under one teacher: cells of a grid, each trained once, in one folder."""

import logging
import traceback
from dataclasses import replace

from letkd_keras.recipes import grid_table, stages
from letkd_keras.recipes.run_folder import RunFolder, write_text
from letkd_keras.recipes.training import finished

log = logging.getLogger("letkd_keras")

# What may differ between two starts in the same folder, since no finished cell depends on it.
_OPEN = ("methods", "trials", "export_method", "formats")


def run(experiment, out, verbose=2):
    """Train what is missing of a grid of methods and seeds, trial by trial, and write its table.

    Cells are `METHOD/seedN`, as in a run folder. One that fails leaves its traceback in
    `error.txt`, the others go on; the next start tries it again. Methods and trials may be added
    from start to start.

    Args:
        experiment: `Experiment`; nothing is exported.
        out: Folder of the grid, new or an earlier one's of the same configuration.
        verbose: Keras' verbosity of training.

    Returns:
        The table as a list of rows (`grid_table.rows`), of all cells that the folder has.

    Raises:
        ValueError: If the experiment or the folder does not fit; before any long work.
    """
    needed = experiment
    if experiment.levels:
        # Prototypes are of the teacher: fitted once for all methods, those added later as well.
        needed = replace(experiment, methods=(*experiment.methods, "letkd2"))
    taps = stages.check(needed)
    config = {key: value for key, value in experiment.config().items() if key not in _OPEN}
    folder = RunFolder(out, config)
    with stages.logged_to(folder / "log.txt"), stages.devices():
        log.info("grid folder %s", folder.path)
        teacher, teacher_result = stages.teacher(experiment, folder, verbose)
        prototypes = stages.prototypes(needed, taps, teacher, folder, verbose)
        for seed in experiment.seeds:
            for method in experiment.methods:
                _cell(experiment, taps, method, seed, teacher, prototypes, folder, verbose)
                table = grid_table.write(experiment, folder, teacher_result)
    return table


def _cell(experiment, taps, method, seed, teacher, prototypes, folder, verbose):
    place = stages.student_folder(folder, method, seed)
    error = place / "error.txt"
    if finished(place) is not None:
        return
    error.unlink(missing_ok=True)
    try:
        stages.student(experiment, taps, method, seed, teacher, prototypes, folder, verbose)
    except Exception as failure:  # whatever it is, it is this cell's alone
        summary = f"{type(failure).__name__}: {failure}".splitlines()[0]
        write_text(error, f"{summary}\n\n{traceback.format_exc()}")
        log.error("%s, seed %d failed: %s", method, seed, summary)
