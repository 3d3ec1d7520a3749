import os
import sys
import types

import pytest

from letkd_keras.commands import ray_cluster


@pytest.mark.parametrize(
    ("resources", "workers", "expected"),
    [
        ({"CPU": 16.0}, 2, (8, 0)),
        ({"CPU": 16.0}, 3, (5, 0)),
        ({"CPU": 1.0}, 2, (0.5, 0)),
        ({"CPU": 16.0, "GPU": 4.0}, 4, (4, 1)),
        ({}, 1, (1, 0)),
    ],
)
def test_workers_share_the_processors_and_have_a_gpu_each(resources, workers, expected):
    assert ray_cluster._share(resources, workers) == expected


def test_more_workers_than_gpus_are_refused():
    with pytest.raises(ValueError, match=r"at most the number of GPUs, 2. Received: workers=3"):
        ray_cluster._share({"CPU": 64.0, "GPU": 2.0}, 3)


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_ray_is_quiet_and_without_a_network_unless_a_cluster_is_named(monkeypatch, address):
    # Not imported here: other tests of this process need Ray to be imported quietly.
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(__name__="ray"))
    monkeypatch.setattr(os, "environ", {"RAY_ADDRESS": address, "RAY_BACKEND_LOG_LEVEL": "info"})
    assert ray_cluster.import_ray().__name__ == "ray"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "info"
    assert ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" in os.environ) == (not address)


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_a_start_that_takes_too_long_is_tried_again_here_but_not_elsewhere(monkeypatch, address):
    calls, ends = [], []

    def init(**options):
        calls.append(options)
        raise Exception("The current node timed out during startup.\nMore")

    ray = types.SimpleNamespace(
        __name__="ray",
        init=init,
        is_initialized=lambda: False,
        shutdown=lambda: ends.append(len(calls)),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(os, "environ", {"RAY_ADDRESS": address})
    with (
        pytest.raises(ConnectionError, match=r"could not be started: .* during startup\.$"),
        ray_cluster.running_ray(2),
    ):
        pytest.fail("it runs")
    assert ends == ([1] if address else [1, 2, 3])  # what had started of it
    assert all(("include_dashboard" in options) == (not address) for options in calls)
