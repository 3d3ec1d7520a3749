import json

import pytest
from tiny_imagenet_tree import write_tiny_imagenet

from letkd_keras.recipes import tiny_imagenet


@pytest.mark.slow
def test_from_the_archive_to_an_exported_student(tmp_path):
    root = write_tiny_imagenet(tmp_path, train=8, val=50)
    out = tmp_path / "run"
    arguments = [
        *("--data", f"tiny-imagenet:{root}", "--image-cache", str(tmp_path / "cache")),
        *("--pair", "resnet56-resnet20", "--epochs", "1", "--templates", "16"),
        *("--subclasses", "2", "--batch-size", "8", "--out", str(out)),
    ]
    report = tiny_imagenet.main(arguments)
    # Three made-up classes are not those of the paper.
    assert report["methods"]["letkd2"]["published"] is None
    assert {result["agreement"] for result in report["exported"].values()} == {1.0}
    measured = report["measures"]["letkd2"][0]
    assert measured["top-1, both halves"] == pytest.approx(
        report["methods"]["letkd2"]["accuracy_last_mean"], abs=1e-3
    )
    assert measured["top-1, both halves"] == pytest.approx(
        (measured["first half"] + measured["second half"]) / 2
    )
    assert json.loads((out / "report.json").read_text()) == report
    config = json.loads((out / "config.json").read_text())
    assert config["augmentation"] == {"rotation": 20.0, "crop_padding": 0, "flip": True}
    # The same command again finds everything done, and the report has its details once.
    assert tiny_imagenet.main(arguments)["measures"] == report["measures"]
    assert (out / "report.md").read_text().count("second half") == 1


def test_unknown_pair_is_refused_before_the_data_are_read(tmp_path):
    with pytest.raises(ValueError, match="`pair` must be one of wrn40_2-wrn16_2"):
        tiny_imagenet.main(["--data", f"tiny-imagenet:{tmp_path}", "--pair", "resnet32x4-snv3"])


def test_archive_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="unzipped folder"):
        tiny_imagenet.main(["--data", f"tiny-imagenet:{tmp_path}"])


def test_the_data_must_be_named(capsys):
    with pytest.raises(SystemExit):
        tiny_imagenet.parse([])
    assert "--data" in capsys.readouterr().err
