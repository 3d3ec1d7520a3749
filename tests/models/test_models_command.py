import json

import keras
import numpy as np
import pytest
from golden_weights import rule_weights

from letkd_keras import models
from letkd_keras.files import save_model
from letkd_keras.models.__main__ import main


def test_checkpoint_becomes_a_keras_file(golden_dir, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    file = np.load(golden_dir / "model_resnet20.npz")
    arrays = rule_weights(json.loads(str(file["keys"])), file["seed"])
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({"model": state}, tmp_path / "r.pth")
    out = tmp_path / "new" / "teacher.keras"
    arguments = ["--network", "resnet20", "--weights", str(tmp_path / "r.pth"), "--out", str(out)]
    main([*arguments, "--num-classes", "100"])
    assert "resnet20 with 100 classes and 279,892 parameters" in capsys.readouterr().out
    loaded = keras.models.load_model(out)
    np.testing.assert_allclose(loaded(file["x"]), file["logits"], rtol=1e-5, atol=1e-5)

    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"r\.pth"):
        main([*arguments, "--num-classes", "10"])
    assert out.read_bytes() == before
    assert [file.name for file in out.parent.iterdir()] == ["teacher.keras"]


def test_the_image_size_is_of_keras_data_format(monkeypatch):
    written = []
    monkeypatch.setattr(models, "load_torch_weights", lambda model, path: None)
    monkeypatch.setattr("letkd_keras.files.save_model", lambda model, path: written.append(model))
    options = ["--network", "resnet8", "--weights", "x.pth", "--out", "t.keras"]
    keras.config.set_image_data_format("channels_first")
    try:
        main([*options, "--image-size", "16"])
    finally:
        keras.config.set_image_data_format("channels_last")
    assert written[0].input_shape == (None, 3, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "t.h5"], "--out must be a file whose name ends in .keras. Received: 't.h5'"),
        (["--num-classes", "1"], "--num-classes must be an integer of at least 2. Received: '1'"),
        (["--image-size", "0"], "--image-size must be an integer from 8 to 4096. Received: '0'"),
        (["--network", ""], "--network must be a text that is not empty. Received: ''"),
    ],
)
def test_wrong_options_are_refused(options, message, capsys):
    given = ["--network", "resnet8", "--weights", "x.pth", "--out", "t.keras", *options]
    with pytest.raises(SystemExit) as exit_:
        main(given)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / "teacher.keras"
    out.write_bytes(b"old")
    model = models.build("resnet8")

    def interrupted(self, path, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model), "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, out)
    assert out.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["teacher.keras"]
