import json

import pytest

from letkd_keras.recipes.trainings import sharing
from letkd_keras.recipes.workers.worker_environment import connect, process_of, task_of

JAX_NAMES = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)


def _config(cluster=None, **task):
    cluster = {"worker": ["one:2222", "two:2222"]} if cluster is None else cluster
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1, **task}})


def test_the_number_of_workers_and_the_own_one():
    assert task_of(_config()) == (2, 1)
    assert task_of(_config(index=0)) == (2, 0)
    with_chief = {"chief": ["zero:1"], "worker": ["one:2", "two:2"]}
    assert task_of(_config(with_chief)) == (3, 2)
    assert task_of(_config(with_chief, type="chief", index=0)) == (3, 0)
    assert task_of("{}") == (1, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "Expecting.*Received: TF_CONFIG='{'"),
        ("[]", "it is no dictionary"),
        ('{"cluster": []}', "cluster and task are dictionaries"),
        (_config({"worker": "one:2222"}), "worker is a list of host:port"),
        (_config({"worker": ["one", "two"]}), "worker is a list of host:port"),
        (_config({"worker": ["one:99999", "two:1"]}), "worker is a list of host:port"),
        (_config({"worker": ["one:1", "two:0"]}), "worker is a list of host:port"),
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
        task_of(config)


def _environment(addresses="one:1", count="2", index="1"):
    return dict(zip(JAX_NAMES, (addresses, count, index), strict=True))


def test_the_number_of_processes_and_the_own_one():
    assert process_of({}) is None
    assert process_of(_environment()) == (2, 1)
    assert process_of(_environment("one:1,two:1")) == (2, 1)


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
        process_of(environment)


def test_workers_of_another_backend_are_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _config())
    with pytest.raises(ValueError, match=r"for KERAS_BACKEND=tensorflow. Received: .*=jax"):
        connect("jax")
    monkeypatch.setenv("TF_CONFIG", " ")
    for name, value in _environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"for KERAS_BACKEND=jax. Received: .*=tensorflow"):
        connect("tensorflow")


def test_a_single_worker_is_alone(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", _config({"worker": ["one:1"]}, index=0))
    assert connect("tensorflow") is None
    assert sharing.current() is None and sharing.devices() == 1
