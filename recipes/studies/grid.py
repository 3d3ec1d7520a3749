"""Many methods and seeds under one teacher: each training is a cell of a grid, in one folder.

`python -m letkd_keras.recipes.studies.grid FOLDER METHOD SEED` trains one cell of a folder with
teacher and prototypes. `run` starts it for the cells of `compare --jobs`.
"""

import logging
import os
import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from letkd_keras.commands.log_file import recorded
from letkd_keras.commands.own_modules import import_modules
from letkd_keras.commands.run_folder import read_config
from letkd_keras.commands.terminal_log import set_up_logging
from letkd_keras.files import open_atomic, write_text
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.experiment import Experiment
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.reports import method_table
from letkd_keras.recipes.steps.opened_folder import opened
from letkd_keras.recipes.steps.prototypes import prototypes_of
from letkd_keras.recipes.steps.student import train_student
from letkd_keras.recipes.steps.teacher import train_teacher
from letkd_keras.recipes.trainings import accuracies, gpus, sharing, training_folder

log = logging.getLogger("letkd_keras")

# Exit statuses of a process that has done its work or that was interrupted.
_ENDED = (0, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)


def run(experiment, out, jobs=1, fitted=None):
    """Train what is missing of a grid of methods and seeds, trial by trial, and write its table.

    Trainings are in `METHOD/seedN`, as in a run folder. One that fails leaves its traceback in
    `error.txt`, and the others continue; the next start tries it again. Methods and trials can be
    added from start to start.

    Args:
        experiment: `Experiment`; nothing is exported.
        out: Folder of the grid: new, or an earlier one's with the same settings.
        jobs: Number of processes that train cells at the same time. Each imports the backend for
            itself, and several GPUs are assigned to them in turn. With 1, cells are trained in this
            process.
        fitted: File of the prototypes of an earlier grid with the same teacher and the same numbers
            of templates, which are copied rather than fitted again; `None` to fit them.

    Returns:
        The rows of the table (`method_table.rows`), of all cells that the folder has, each with
        `failed_now`: whether one of the cells of this start failed.

    Raises:
        ValueError: If the experiment or the folder does not fit; before any training.
    """
    if jobs > 1 and sharing.current() is not None:
        raise ValueError(
            f"`jobs` must be 1 where several workers share each training. Received: jobs={jobs}"
        )
    with recorded() as messages:
        experiment = prepare(experiment)
    with opened(experiment, out, messages) as folder:
        log.info("folder of results %s", folder)
        method_table.warn_about_unknown(folder)
        teacher, teacher_result = train_teacher(experiment, folder)
        # The prototypes belong to the teacher: they are fitted once, also for methods that are
        # added later.
        levels = tuple(experiment.pool_sizes) if experiment.levels else ()
        if fitted is not None and fitted.exists() and not (folder / "prototypes.npz").exists():
            with open_atomic(folder / "prototypes.npz") as copy:
                copy.write(fitted.read_bytes())
        prototypes = prototypes_of(experiment, teacher, folder, levels)
        cells = [
            (method, seed)
            for seed in experiment.seeds
            for method in experiment.methods
            if not _is_finished(training_folder.student_folder(folder, method, seed))
        ]
        table = method_table.write(experiment, folder, teacher_result)
        if jobs > 1 and len(cells) > 1:
            done = _in_processes(cells, folder, jobs)
        else:
            done = (
                _in_this_process(experiment, cell, teacher, prototypes, folder) for cell in cells
            )
        for number, (method, seed) in enumerate(done, 1):
            outcome = _outcome(training_folder.student_folder(folder, method, seed))
            log.info(
                "training %d of %d: %s, seed %d: %s",
                number,
                len(cells),
                methods.title(method),
                seed,
                outcome,
            )
            table = method_table.write(experiment, folder, teacher_result)
    return [{**row, "failed_now": _failed_now(experiment, row)} for row in table]


def _failed_now(experiment, row):
    return row["method"] in experiment.methods and any(
        seed in experiment.seeds for seed in row["errors"]
    )


def _is_finished(training):
    result = training_folder.finished(training)
    if result is not None:
        training_folder.check_student(training, result)
    return result is not None


def _outcome(training):
    error = training_folder.failure(training)
    if error is not None:
        return f"failed: {error}"
    result = training_folder.finished(training)
    return "interrupted" if result is None else f"{accuracies.accuracy_of(result):.2f}% top-1"


def _in_this_process(experiment, cell, teacher, prototypes, folder):
    method, seed = cell
    training = training_folder.student_folder(folder, method, seed)
    try:
        with _locked(training), experiment.data.broken_files_named():
            train_student(experiment, method, seed, teacher, prototypes, folder)
    except ConnectionError:  # no other cell could be trained
        raise
    except Exception as error:  # whatever it is, the other cells can be trained
        _record_failure(training, error)
    return cell


def _record_failure(training, error):
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    write_text(training / "error.txt", f"{summary}\n\n{traceback.format_exc()}")


@contextmanager
def _locked(training):
    """A scope in which no other process trains the same cell; an earlier error is removed."""
    training.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(training / ".lock", timeout=0):
            (training / "error.txt").unlink(missing_ok=True)
            yield
    except Timeout:
        raise ValueError(
            f"{training} is being trained by another process, perhaps of an earlier start. Wait "
            "for it to end."
        ) from None


def _in_processes(cells, folder, jobs):
    """Train cells in processes of their own; yields each cell when it has ended."""
    slots = list(range(jobs))
    processes = set()

    def train(cell):
        slot = slots.pop()
        try:
            method, seed = cell
            log.info("starting %s, seed %d", methods.title(method), seed)
            training = training_folder.student_folder(folder, method, seed)
            training.mkdir(parents=True, exist_ok=True)
            with (training / "output.txt").open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(folder), method, str(seed)],
                    env=_environment(slot, jobs),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
                processes.add(process)
                status = process.wait()
                processes.discard(process)
            if status not in _ENDED and training_folder.failure(training) is None:
                how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
                write_text(training / "error.txt", f"the process ended with {how}; see output.txt")
            return cell
        finally:
            slots.append(slot)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(train, cell) for cell in cells]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            # After an interruption. A cell continues at the next start from its last epoch.
            for future in futures:
                future.cancel()
            for process in list(processes):
                process.terminate()


def _environment(slot, jobs):
    environment = {
        **os.environ,
        # The processes share the memory of a GPU.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_NUM_INTRAOP_THREADS": str(max(1, len(os.sched_getaffinity(0)) // jobs)),
    }
    seen = gpus.seen()
    if seen:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(seen)))
        visible = visible.split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
    return environment


def train_cell(folder, method, seed):
    """Train one cell of a grid's folder, whose teacher and prototypes are ready.

    Args:
        folder: Path of the folder.
        method: Name of the method.
        seed: Seed of the student.

    Returns:
        Whether the training was finished; otherwise `error.txt` says why.
    """
    training = training_folder.student_folder(folder, method, seed)
    try:
        with _locked(training):
            config = read_config(folder)
            import_modules(config.get("imports", ()))
            experiment = Experiment.from_config(config, methods=(method,))
            with gpus.scope(), experiment.data.broken_files_named():
                teacher, _ = train_teacher(experiment, folder)
                levels = methods.levels_of([method])
                prototypes = prototypes_of(experiment, teacher, folder, levels)
                train_student(experiment, method, seed, teacher, prototypes, folder)
    except Exception as error:  # recorded for the table
        _record_failure(training, error)
        return False
    return True


def main():
    """Train one cell; returns the exit status."""
    folder, method, seed = sys.argv[1:]
    set_up_logging()
    return 0 if train_cell(Path(folder), method, int(seed)) else 1


if __name__ == "__main__":
    sys.exit(main())
