import threading
from types import SimpleNamespace

from worker_threads import in_threads

from letkd_keras.recipes import cifar100
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.recipe_command import default_out, run_in_folder
from letkd_keras.recipes.workers import worker_environment


def test_the_default_folder_has_the_data_and_the_pair(cifar100_noise):
    options = cifar100.parse(["--classes", "20", "--pair", "wrn40_2-snv1"])
    experiment = experiment_of(options, cifar100.SETTINGS)
    assert str(default_out(experiment)) == "runs/cifar100/wrn40_2-snv1"
    assert str(default_out(experiment, "compare-")).endswith("compare-wrn40_2-snv1")
    experiment = SimpleNamespace(data=SimpleNamespace(name="a b/c, first 20 classes"), pair="t-s")
    assert str(default_out(experiment)) == "runs/a-b-c/t-s"


def test_workers_may_differ_in_what_no_training_depends_on(monkeypatch, tmp_path, capsys):
    (tmp_path / "report.md").write_text("The report of the chief.")
    own = threading.local()
    monkeypatch.setattr(worker_environment, "connect", lambda backend: own.group)

    def run(group):
        own.group = group
        config = {"seed": 0, "data": {"source": f"/images{group.index}"}}
        experiment = SimpleNamespace(data=None, student_data=None, config=lambda: config)
        options = SimpleNamespace(engine=None, out=tmp_path)
        return run_in_folder(options, lambda: experiment, lambda *args: ("report", "report.md"))

    assert in_threads(2, run) == ["report", None]
    assert capsys.readouterr().out.count("The report of the chief.") == 1
