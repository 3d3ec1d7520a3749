"""Recipes on several workers: real processes on this machine, and what they agree on."""

import csv
import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from free_ports import free_ports
from small_training import small_model
from worker_threads import Threads, in_threads

from letkd_keras.data import load_digits
from letkd_keras.recipes.trainings import sharing, training_folder
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.workers import shared_training

PROGRAM = Path(__file__).parents[2] / "programs" / "recipe_on_workers.py"
SECONDS = 900  # of each process; minutes are needed where many share a core
# In steps: two epochs of three for the teacher, then the student's first epoch and two more.
DIES_AT = 11
TRAININGS = ("teacher", "student/seed0", "letkd1/seed0")
JAX = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def _environment(**variables):
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return {**kept, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", **variables}


def _tensorflow_workers():
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    return [
        {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
        for index in range(2)
    ]


def _jax_workers():
    (port,) = free_ports(1)
    name = "KERAS_DISTRIBUTION"
    group = {f"{name}_JOB_ADDRESSES": f"127.0.0.1:{port}", f"{name}_NUM_PROCESSES": "2"}
    return [{**group, f"{name}_PROCESS_ID": str(index)} for index in range(2)]


class Group:
    """Both workers of a run; each writes what it prints to a file, and has a folder of its own."""

    def __init__(self, folder, environments, dies_at=0, **variables):
        self.outputs = [folder / f"worker{index}.txt" for index in range(len(environments))]
        self.processes = [
            subprocess.Popen(
                # The folder of the second one must never be needed.
                [sys.executable, PROGRAM, folder / f"run{index}", str(dies_at if index else 0)],
                stdout=output.open("w"),
                stderr=subprocess.STDOUT,
                env=_environment(**variables, **environment),
            )
            for index, (environment, output) in enumerate(
                zip(environments, self.outputs, strict=True)
            )
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def statuses(self):
        return [process.wait(SECONDS) for process in self.processes]

    def text(self, index):
        return self.outputs[index].read_text()[-3000:]


def _alone(folder, *options, **variables):
    done = subprocess.run(
        [sys.executable, PROGRAM, folder, "0", *options],
        env=_environment(**variables),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _weights(file):
    h5py = pytest.importorskip("h5py")
    arrays = {}
    with (
        zipfile.ZipFile(file) as archive,
        h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights,
    ):
        weights.visititems(
            lambda name, item: arrays.update(
                {name: item[()]} if isinstance(item, h5py.Dataset) else {}
            )
        )
    return arrays


def _metrics(training):
    with (training / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{n: float(v) for n, v in row.items() if n != "seconds"} for row in rows]


def _check_same(one, several):
    """Weights and metrics of all trainings, within roundings of float64."""
    for training in TRAININGS:
        name = "teacher.keras" if training == "teacher" else "student.keras"
        expected, found = (_weights(run / training / name) for run in (one, several))
        assert expected.keys() == found.keys()
        assert any(array.dtype == "float64" for array in found.values())
        for key, array in found.items():
            np.testing.assert_allclose(
                array, expected[key], rtol=1e-10, atol=1e-10, err_msg=f"{training} {key}"
            )
        expected, found = (_metrics(run / training) for run in (one, several))
        assert len(found) == 2
        for expected_row, row in zip(expected, found, strict=True):
            assert row == pytest.approx(expected_row, rel=1e-10, abs=1e-10)


def _check_killed_and_started_again(folder, environments, **variables):
    with Group(folder, environments(), DIES_AT, **variables) as group:
        statuses = group.statuses()
    assert statuses == [1, -9] or statuses == [2, -9], (statuses, group.text(0))
    assert "Start all workers again" in group.text(0)
    state = json.loads((folder / "run0" / "student" / "seed0" / "state.json").read_text())
    assert state["epochs"] == 1
    with Group(folder, environments(), **variables) as group:
        assert group.statuses() == [0, 0], [group.text(index) for index in range(2)]
    assert "the chief has finished" in group.text(1)
    # Epochs that had been trained were not trained again, and the others wrote nothing.
    assert "training the teacher" not in group.text(0)
    assert not (folder / "run1").exists()


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """The run folder of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    _alone(folder)
    return folder


@pytest.mark.slow
def test_two_workers_of_which_one_dies_end_as_one_device(one_device, tmp_path):
    """Teacher, student alone and letKD-1; class weights, moving average, 21 test images."""
    _check_killed_and_started_again(tmp_path, _tensorflow_workers)
    _check_same(one_device, tmp_path / "run0")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_two_processes_of_jax_of_which_one_dies_end_as_one_device(tmp_path):
    _alone(tmp_path / "one", **JAX)
    _check_killed_and_started_again(tmp_path, _jax_workers, **JAX)
    _check_same(tmp_path / "one", tmp_path / "run0")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_workers_of_ray_of_which_one_dies_end_as_one_device(one_device, tmp_path):
    """Ray starts both again by itself. The workers also share the fit of the prototypes."""
    done = subprocess.run(
        [
            sys.executable,
            PROGRAM.with_name("recipe_on_ray.py"),
            tmp_path / "run",
            tmp_path / "died",
        ],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "died").exists()
    _check_same(one_device, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("ray"))


def test_workers_that_differ_are_refused():
    """By all of them, with what differs; paths may differ."""

    def agree(group):
        data = {"digest": f"{group.index}", "source": f"/images{group.index}"}
        with pytest.raises(ValueError) as error:
            own = {"experiment": {"seed": 0, "data": data}, "code": "a"}
            shared_training.agree(group, own, open_keys=("data.source",))
        return str(error.value)

    first, second = in_threads(2, agree)
    assert first == second
    assert first.endswith('Received: experiment.data.digest: "0" of the chief, "1" of worker 2'), (
        first
    )


def test_what_one_worker_cannot_do_ends_all():
    def agree(group):
        own = {"error": "no such folder"} if group.index else {"experiment": {}}
        with pytest.raises(ValueError, match="Worker 2 of 2: no such folder"):
            shared_training.agree(group, own)
        return True

    assert in_threads(2, agree) == [True, True]


def test_the_code_is_described_by_a_digest():
    code = shared_training.code()
    assert len(code["code"]) == 64 and code == shared_training.code()
    assert {"keras", "numpy"} < code["versions"].keys()


@pytest.fixture
def trained(monkeypatch):
    """The trainings of all workers, without any training."""
    calls = []

    def fit(group, content, data, order, folder):
        calls.append((group.index, content, data, order, folder))
        if order.get("fails"):
            raise FloatingPointError("not finite")

    monkeypatch.setattr(shared_training, "fit", fit)
    monkeypatch.setattr(shared_training, "code", dict)
    monkeypatch.setattr(shared_training, "same_data", lambda data_sets, order: data_sets[0])
    return calls


class Model:
    """A model whose file has two bytes."""

    def save(self, path):
        Path(path).write_bytes(b"ab")


def _on_threads(command, monkeypatch):
    """What the command's workers end with; each thread has its own group."""
    groups = {}
    monkeypatch.setattr(
        shared_training.worker_environment, "connect", lambda backend: groups[backend], raising=True
    )

    class Experiment:
        data, student_data = "images", "few images"

        @staticmethod
        def config():
            return {"seed": 0}

    def run(group):
        groups[group.index] = group
        try:
            return shared_training.lead_or_serve(group.index, lambda: Experiment, command)
        except Exception as error:
            return error

    return in_threads(3, run)


def test_the_chief_runs_the_recipe_and_the_others_its_trainings(trained, monkeypatch, tmp_path):
    def command(experiment):
        chief = sharing.current()
        assert chief.devices == 3
        for seed in range(2):
            chief.train(Model(), experiment.data, {"seed": seed}, tmp_path)
        return "report"

    assert _on_threads(command, monkeypatch) == ["report", None, None]
    assert sorted(call[0] for call in trained) == [0, 0, 1, 1, 2, 2]
    for index, content, data, order, folder in trained:
        assert content == b"ab" and data == "images" and order["seed"] in (0, 1)
        assert folder == (None if index else tmp_path)


@pytest.mark.parametrize(
    ("error", "sent"),
    [(ValueError("no space"), [{"error": "ValueError: no space"}]), (KeyboardInterrupt(), [])],
)
def test_every_error_of_the_chief_ends_it_and_an_interruption_is_not_sent(error, sent, monkeypatch):
    """The others may have been interrupted, too, and would not receive it."""
    ends, messages = [], []
    group = SimpleNamespace(
        is_chief=True,
        lost=False,
        devices=2,
        broadcast_json=messages.append,
        leave=lambda: ends.append("left"),
    )

    def command(experiment):
        raise error

    monkeypatch.setattr(shared_training.worker_environment, "connect", lambda backend: group)
    monkeypatch.setattr(shared_training, "agree", lambda *arguments: None)
    with pytest.raises(type(error)):
        shared_training.lead_or_serve("jax", lambda: SimpleNamespace(config=dict), command)
    assert (messages, ends) == (sent, ["left"])


@pytest.mark.parametrize("digest", ["all", "labelled", "repeated"])
def test_workers_find_the_images_of_the_chief_with_and_without_labels(digest):
    def labelled(repeat=False):
        return SimpleNamespace(digest="repeated" if repeat else "labelled")

    data = SimpleNamespace(digest="all", labelled=labelled)
    assert shared_training.same_data([data], {"digest": digest}).digest == digest
    with pytest.raises(ValueError, match="The images of the workers differ"):
        shared_training.same_data([data], {"digest": "others"})


def test_an_error_of_the_chief_ends_the_others(trained, monkeypatch):
    def command(experiment):
        raise ValueError("no space")

    ends = _on_threads(command, monkeypatch)
    assert str(ends[0]) == "no space"
    assert [str(end) for end in ends[1:]] == [
        "The chief ended by an error: ValueError: no space"
    ] * 2


def test_after_a_loss_that_is_not_finite_other_trainings_go_on(trained, monkeypatch, tmp_path):
    def command(experiment):
        chief = sharing.current()
        with pytest.raises(FloatingPointError):
            chief.train(Model(), experiment.data, {"fails": True}, tmp_path)
        chief.train(Model(), experiment.data, {}, tmp_path)
        return "report"

    assert _on_threads(command, monkeypatch) == ["report", None, None]
    assert len(trained) == 6


def test_nothing_is_trained_after_a_worker_was_lost(tmp_path):
    group = Threads(0, {"slots": [None] * 2})
    group.lost = True
    with pytest.raises(ConnectionError, match="Start all workers again"):
        shared_training.Chief(group).train(Model(), None, {}, tmp_path)


def test_a_training_that_a_callback_ended_is_not_continued(tmp_path, monkeypatch):
    state = {"epochs": 1, "last": None, "best": None, "rows": [], "stopped": True}
    training_folder.write_checked_json(tmp_path / "state.json", state)
    monkeypatch.setattr(shared_training.training, "train", lambda *args, **options: "result")
    # This group would fail, since it cannot train.
    with sharing.by(object()):
        data, schedule = SimpleNamespace(digest="1", train_examples=64), Schedule(3, 0.1, ())
        model = small_model()
        assert shared_training.train(model, data, schedule, tmp_path, callbacks=()) == "result"


def test_a_short_training_ends_with_averages_of_its_last_weights(tmp_path):
    """With the momentum of MobileNetV3 the averages are those of the first weights."""
    data = load_digits()
    schedule = Schedule(4, 0.1, (3,), batch_size=64)

    def accuracy(train, folder):
        keras.utils.set_random_seed(0)
        images = keras.Input((32, 32, 3))
        x = keras.layers.Conv2D(16, 4, strides=4)(images)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.999)(x))
        x = keras.layers.Conv2D(16, 3, padding="same")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.999)(x))
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(images, keras.layers.Dense(10)(x))
        options = {"seed": 0, "augmentation": {"flip": False}, "callbacks": ()}
        return train(model, data, schedule, tmp_path / folder, **options)["accuracy_last"]

    limited = accuracy(shared_training.train, "limited")
    assert limited > accuracy(shared_training.training.train, "unlimited") + 20
