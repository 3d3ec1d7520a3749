import pytest
from small_problem import SIZES, small_images

from letkd_keras.prototypes import fit_prototypes
from letkd_keras.prototypes import fit as fit_module


def test_every_step_has_a_bar_that_gets_to_its_end(teacher, capsys, monkeypatch):
    bars, progress_of = {}, fit_module._progress

    def keep(verbose):
        progress = progress_of(verbose)
        stop = progress.stop

        def stopped():
            bars.update({task.description: (task.completed, task.total) for task in progress.tasks})
            stop()

        progress.stop = stopped
        return progress

    monkeypatch.setattr(fit_module, "_progress", keep)
    fit_prototypes(teacher(), small_images(), **SIZES, verbose=True)
    assert bars == {
        "features: teacher": (60, 60),
        "penultimate: k-means": (5, 5),
        "projected: teacher": (60, 60),
        "sub-classes: k-means": (5, 5),
        "sub-classes: scores": (5, 5),
    }
    shown = capsys.readouterr()
    assert "features: teacher" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("verbose", [False, "auto"])
def test_nothing_is_shown_unless_wanted_or_in_a_terminal(teacher, capsys, verbose):
    fit_prototypes(teacher(), small_images(), **SIZES, verbose=verbose)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""
