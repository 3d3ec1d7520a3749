import pytest
from in_a_process import in_a_process

from letkd_keras.prototypes import faiss_blas


def _found(**environment):
    done = in_a_process("blas_of_faiss.py", **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split() for line in done.stdout.splitlines())


def test_faiss_takes_the_processor_for_what_numpy_does(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    found = _found()
    assert found["environment"] == "None"
    if not {"faiss", "other"} <= found.keys():
        pytest.skip("faiss and NumPy do not bring an OpenBLAS each")
    assert found["faiss"] == faiss_blas._RELATIVES.get(found["other"], found["other"])


def test_what_the_environment_says_is_respected():
    found = _found(OPENBLAS_CORETYPE="Nehalem")
    assert found["environment"] == "Nehalem"
    assert found.get("faiss", "Nehalem") == "Nehalem"
