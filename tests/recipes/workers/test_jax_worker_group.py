import os
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import free_ports

PROGRAM = Path(__file__).parents[2] / "programs" / "ended_jax_worker.py"

pytest.importorskip("jax")


def test_sigterm_ends_a_worker_of_jax():
    (port,) = free_ports(1)
    name = "KERAS_DISTRIBUTION"
    group = {f"{name}_JOB_ADDRESSES": f"127.0.0.1:{port}", f"{name}_NUM_PROCESSES": "1"}
    done = subprocess.run(
        [sys.executable, PROGRAM],
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
