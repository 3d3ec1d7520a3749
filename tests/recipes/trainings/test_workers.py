import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from worker_threads import Threads, in_threads

from letkd_keras.recipes.trainings import workers


def _config(cluster=None, **task):
    cluster = {"worker": ["one:2222", "two:2222"]} if cluster is None else cluster
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1, **task}})


def test_the_number_of_workers_and_the_own_one():
    assert workers.task_of(_config()) == (2, 1)
    assert workers.task_of(_config(index=0)) == (2, 0)
    with_chief = {"chief": ["zero:1"], "worker": ["one:2", "two:2"]}
    assert workers.task_of(_config(with_chief)) == (3, 2)
    assert workers.task_of(_config(with_chief, type="chief", index=0)) == (3, 0)
    assert workers.task_of("{}") == (1, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "Expecting.*Received: TF_CONFIG='{'"),
        ("[]", "it is no dictionary"),
        ('{"cluster": []}', "cluster and task are dictionaries"),
        (_config({"worker": "one:2222"}), "worker is a list of host:port"),
        (_config({"worker": ["one", "two"]}), "worker is a list of host:port"),
        (_config({"worker": ["one:99999", "two:1"]}), "worker is a list of host:port"),
        (_config({"worker": ["one:1", "one:1"]}), "two workers have the same address"),
        (_config({"worker": ["one:1"], "ps": ["two:1"]}), "tasks are chief and worker, not ps"),
        (_config({"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "there is one chief"),
        (_config(type="chief"), "the type of the task is one of the cluster"),
        (_config(index=2), "the index of the task is from 0 to 1"),
        (_config(index="0"), "the index of the task is from 0 to 1"),
    ],
)
def test_a_malformed_tf_config_is_refused(config, message):
    with pytest.raises(ValueError, match=f"`TF_CONFIG` must be JSON.*{message}"):
        workers.task_of(config)


def _environment(addresses="one:1", count="2", index="1"):
    return dict(zip(workers._JAX_NAMES, (addresses, count, index), strict=True))


def test_the_number_of_processes_and_the_own_one():
    assert workers.process_of({}) is None
    assert workers.process_of(_environment()) == (2, 1)
    assert workers.process_of(_environment("one:1,two:1")) == (2, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (_environment(count=""), "`KERAS_DISTRIBUTION_NUM_PROCESSES` must be set with"),
        (_environment(count="two"), "NUM_PROCESSES` must be an integer. Received: .*=two"),
        (_environment(index="2"), "PROCESS_ID` must be from 0 to 1. Received: .*=2"),
        (_environment("one"), "JOB_ADDRESSES` must be the host:port"),
        (_environment("one:1,two:1,three:1"), "or those of all 2, separated by commas"),
    ],
)
def test_malformed_variables_of_jax_are_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        workers.process_of(environment)


def test_workers_of_another_backend_are_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _config())
    with pytest.raises(ValueError, match=r"for KERAS_BACKEND=tensorflow. Received: .*=jax"):
        workers.connect("jax")
    monkeypatch.setenv("TF_CONFIG", " ")
    for name, value in _environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"for KERAS_BACKEND=jax. Received: .*=tensorflow"):
        workers.connect("tensorflow")


def test_a_single_worker_is_alone(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _config({"worker": ["one:1"]}, index=0))
    assert workers.connect("tensorflow") is None
    assert workers.current() is None and workers.devices() == 1


@pytest.mark.parametrize("chunk", [2**22, 3])
def test_messages_of_any_length_reach_all(chunk, monkeypatch):
    monkeypatch.setattr(workers, "_CHUNK", chunk)
    messages = [bytes(range(256)), b"", b"odd", b"\xff\xff"]
    assert in_threads(4, lambda group: group.gather(messages[group.index])) == [messages] * 4
    received = in_threads(4, lambda group: group.broadcast(messages[group.index]))
    assert received == [messages[0]] * 4


def test_the_loss_of_a_worker_is_a_connection_error():
    class Lost(Threads):
        def errors_of_lost_workers(self):
            return (RuntimeError,)

        def _is_loss(self, error):
            return "gone" in str(error)

    group = Lost(0, {"slots": [None] * 2})
    with pytest.raises(RuntimeError, match="other"), group.watched():
        raise RuntimeError("other")
    assert not group.lost
    with pytest.raises(ConnectionError, match="Start all workers again"), group.watched():
        raise RuntimeError("gone")
    assert group.lost


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_sigterm_ends_a_worker_of_jax():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    name = "KERAS_DISTRIBUTION"
    group = {f"{name}_JOB_ADDRESSES": address, f"{name}_NUM_PROCESSES": "1"}
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "programs" / "ended_jax_worker.py"],
        env={
            **os.environ,
            **group,
            f"{name}_PROCESS_ID": "0",
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 143, done.stderr[-2000:]
