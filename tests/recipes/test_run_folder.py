import json

import pytest

from letkd_keras.recipes.run_folder import RunFolder, read_json, write_json


def test_a_new_folder_keeps_its_configuration(tmp_path):
    RunFolder(tmp_path / "a" / "run", {"seed": 1, "milestones": (3, 4)})
    config = read_json(tmp_path / "a" / "run" / "config.json")
    assert config == {"seed": 1, "milestones": [3, 4]}


def test_the_same_configuration_goes_on_there(tmp_path):
    RunFolder(tmp_path, {"seed": 1})
    (tmp_path / "log.txt").write_text("half a run")
    assert RunFolder(tmp_path, {"seed": 1}).path == tmp_path


@pytest.mark.parametrize("config", [{"seed": 2}, {"seed": 1, "pair": "a-b"}, {}])
def test_another_configuration_is_refused_and_named(tmp_path, config):
    RunFolder(tmp_path, {"seed": 1})
    with pytest.raises(ValueError, match=r"another configuration .*there, .* now"):
        RunFolder(tmp_path, config)
    assert read_json(tmp_path / "config.json") == {"seed": 1}


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`run_dir` must be new, empty or an earlier run's"):
        RunFolder(tmp_path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert len(list(tmp_path.iterdir())) == 1
