import json

import pytest

from letkd_keras.recipes import digits


def test_several_workers_are_refused_before_anything_is_written(monkeypatch, tmp_path):
    workers = ["one:2222", "two:2222"]
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers}, "task": task}))
    run = tmp_path / "run"
    with pytest.raises(ValueError, match=r"on one machine.*Received: workers \['one:2222', 'two"):
        digits.main(["--run-dir", str(run)])
    assert not run.exists()
