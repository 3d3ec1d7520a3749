"""Kill a run by SIGKILL, again and again, and finish it; in a process of its own, for it forks.

Usage: killed_runs.py FOLDER CACHE, where CACHE is "none" or the type of the cache.
Prints the steps in which runs were killed.
"""

import os
import random
import signal
import sys
from pathlib import Path

from small_problem import SIZES, small_images, small_teacher

from letkd_keras import files
from letkd_keras.prototypes import fit_prototypes, remove_workdir, steps
from letkd_keras.prototypes.steps import STEPS


def run(out, cache):
    """A whole run, as the command line does it."""
    # Without a cache there is room for a sample only: the scores need a pass of their own.
    options = {"memory": 300 * 52} if cache == "none" else {"feature_cache": cache}
    workdir = f"{out}.work"
    prototypes = fit_prototypes(
        small_teacher(), small_images(), **SIZES, **options, workdir=workdir, batch_size=7
    )
    prototypes.save(out)
    remove_workdir(workdir)


def kill_at(moment):
    """Have this process kill itself when so many moments of writing have passed."""
    left = moment

    def tick():
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_and_after(function):
        def wrapped(*arguments, **keywords):
            tick()
            result = function(*arguments, **keywords)
            tick()
            return result

        return wrapped

    # Before and after each rename (arrays, records, checkpoints, the artifact), and each removal.
    for name in ("replace", "rename", "unlink", "rmdir"):
        setattr(files.Path, name, before_and_after(getattr(files.Path, name)))
    steps.shutil.rmtree = before_and_after(steps.shutil.rmtree)
    # And in the middle of each pass.
    for gatherer in ("FeatureGatherer", "ProjectedGatherer", "ScoreGatherer"):
        kind = getattr(sys.modules["letkd_keras.prototypes.passes"], gatherer)
        kind.add = before_and_after(kind.add)
    # And between the classes of the sub-classes.
    subclasses = sys.modules["letkd_keras.prototypes.subclasses"]
    subclasses.kmeans = before_and_after(subclasses.kmeans)


def in_a_child(moment, out, cache):
    """Whether a child that is to be killed at a moment got to its end before."""
    child = os.fork()
    if child == 0:
        if moment is not None:
            kill_at(moment)
        run(out, cache)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return False
    assert status == 0, status
    return True


def step_begun(workdir):
    """The step that an interrupted run was in."""
    return next((s for s in STEPS if not (workdir / "steps" / s / "step.json").exists()), "end")


def main(folder, cache):
    folder = Path(folder)
    assert in_a_child(None, folder / "undisturbed.npz", cache)
    expected = (folder / "undisturbed.npz").read_bytes()
    moments, killed_in = random.Random(0), []
    while not killed_in or not set(STEPS) <= set(killed_in):
        out = folder / "killed.npz"
        out.unlink(missing_ok=True)
        # The first step has 59 moments and no checkpoint: some runs must get further.
        while not in_a_child(moments.randint(1, 75), out, cache):
            killed_in.append(step_begun(folder / f"{out.name}.work"))
            assert len(killed_in) < 100, killed_in
            if out.exists():
                assert out.read_bytes() == expected
        assert out.read_bytes() == expected
    left = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    assert left == ["killed.npz", "undisturbed.npz"], left
    print(" ".join(killed_in))


if __name__ == "__main__":
    main(*sys.argv[1:])
