import pytest
from bad_inputs import read_table
from material import write_bad_weights

# Without them the answer is that they are needed.
pytest.importorskip("torch")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    (folder / "bad").mkdir()
    write_bad_weights(folder / "bad")
    return folder


@pytest.mark.parametrize("row", read_table()["Weights of PyTorch"], ids=lambda row: row.line)
def test_a_file_that_is_no_weights_is_refused_and_not_executed(row, material, tmp_path):
    row.check(material, tmp_path)
    assert not list(tmp_path.rglob("code-was-run"))
