import argparse
import json
import os
import pickle
import sys

import numpy as np
import pytest
from golden_weights import rule_weights

from letkd_keras import models

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file
reference_networks = pytest.importorskip("reference_networks")


def golden(golden_dir, network):
    """A golden file and its state dict of tensors, with PyTorch's counters of batches."""
    file = np.load(golden_dir / f"model_{network}.npz")
    keys = json.loads(str(file["keys"]))
    arrays = rule_weights(keys, file["seed"])
    state = {
        name: torch.from_numpy(arrays[name]) if name in arrays else torch.tensor(7)
        for name, _ in keys
    }
    return file, state


def with_prefix(state, prefix="module."):
    return {prefix + name: tensor for name, tensor in state.items()}


# RepDistiller's checkpoints: an accuracy as tensor or NumPy number, an optimizer's state.
def checkpoint(state, key):
    return {
        "epoch": 240,
        key: state,
        "best_acc": torch.tensor(72.34),
        "best_acc5": np.float64(92.1),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []},
    }


SAVED = {
    "repdistiller.pth": lambda state, path: torch.save(checkpoint(state, "model"), path),
    "old_format.pth": lambda state, path: torch.save(
        checkpoint(state, "model"), path, _use_new_zipfile_serialization=False
    ),
    "resnet20_last.pth": lambda state, path: torch.save(
        {"opt": argparse.Namespace(model="resnet20", lr=0.05), "model": state}, path
    ),
    "data_parallel.pth.tar": lambda state, path: torch.save(
        checkpoint(with_prefix(state), "state_dict"), path
    ),
    "compiled.pth": lambda state, path: torch.save(
        checkpoint(with_prefix(state, "_orig_mod."), "model"), path
    ),
    "compiled_parallel.pth": lambda state, path: torch.save(
        with_prefix(state, "module._orig_mod."), path
    ),
    "plain.pt": torch.save,
    "plain.safetensors": save_file,
}


@pytest.mark.parametrize("name", SAVED)
def test_golden_logits_from_every_kind_of_file(name, golden_dir, tmp_path):
    file, state = golden(golden_dir, "resnet20")
    SAVED[name](state, tmp_path / name)
    model = models.build("resnet20", num_classes=100)
    assert models.load_torch_weights(model, tmp_path / name) is model
    np.testing.assert_allclose(model(file["x"]), file["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", ["wrn16_2", "snv1", "mnv2"])
def test_golden_logits_of_other_families(network, golden_dir, tmp_path):
    file, state = golden(golden_dir, network)
    torch.save({"model": state}, tmp_path / "net.pth")
    model = models.build(network, num_classes=100)
    models.load_torch_weights(model, tmp_path / "net.pth")
    scale = np.abs(file["logits"]).max()
    np.testing.assert_allclose(model(file["x"]), file["logits"], atol=1e-5 * scale)


@pytest.mark.parametrize(
    "network, original, parameters",
    [
        ("imagenet_resnet18", lambda: reference_networks.ResNet(18, 10), 11_181_642),
        ("imagenet_resnet50", lambda: reference_networks.ResNet(50, 10), 23_528_522),
        ("imagenet_mobilenet_v1", lambda: reference_networks.MobileNetV1(10), 3_217_226),
        ("imagenet_mobilenet_v2", lambda: reference_networks.MobileNetV2(10), 2_236_682),
    ],
)
def test_names_of_imagenet_checkpoints(network, original, parameters, tmp_path):
    original = reference_networks.randomised(original())
    assert sum(p.numel() for p in original.parameters()) == parameters
    torch.save(original.state_dict(), tmp_path / "net.pth")
    model = models.build(network, num_classes=10, input_shape=(64, 64, 3))
    models.load_torch_weights(model, tmp_path / "net.pth")
    # So bright that rectifiers with an upper bound reach it, and others go beyond.
    images = 10 * np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        expected = original(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    scale = np.abs(expected).max()
    assert scale > 0.1
    np.testing.assert_allclose(model(images), expected, atol=2e-5 * scale)


def test_half_precision_is_read(golden_dir, tmp_path):
    _, state = golden(golden_dir, "resnet8x4")
    state = {
        name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in state.items()
    }
    model = models.build("resnet8x4", num_classes=100)
    for name, save in (("a.pth", torch.save), ("a.safetensors", save_file)):
        save(state, tmp_path / name)
        models.load_torch_weights(model, tmp_path / name)
        kernel = np.transpose(model.get_layer("conv1").kernel, (3, 2, 0, 1))
        np.testing.assert_array_equal(kernel, state["conv1.weight"].float().numpy())


def test_all_that_does_not_fit_is_in_one_error(golden_dir, tmp_path):
    _, state = golden(golden_dir, "resnet20")
    del state["bn1.weight"], state["layer1.0.conv1.weight"]
    state["extra.weight"] = torch.ones(3)
    state["fc.bias"] = torch.ones(7)
    torch.save(state, tmp_path / "net.pth")
    model = models.build("resnet20", num_classes=100)
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        models.load_torch_weights(model, tmp_path / "net.pth")
    for part in (
        "net.pth",
        "missing bn1/gamma, layer1_0_conv1/kernel;",
        "unexpected extra.weight",
        "fc.bias is (7,), expected (100,)",
    ):
        assert part in str(error.value)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


MISFITS = {
    "missing conv1/kernel": lambda state: state.pop("conv1.weight"),
    "unexpected extra.weight": lambda state: state.update({"extra.weight": torch.ones(3)}),
    "misshaped fc.bias": lambda state: state.update({"fc.bias": torch.ones(7)}),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_one_misfit_is_enough(misfit, golden_dir):
    _, state = golden(golden_dir, "resnet20")
    MISFITS[misfit](state)
    with pytest.raises(ValueError, match=misfit):
        models.assign_state_dict(models.build("resnet20"), state)


def test_another_width_or_number_of_classes(golden_dir, tmp_path):
    _, state = golden(golden_dir, "resnet8x4")
    torch.save({"model": state}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"conv1\.weight is \(32, 3, 3, 3\), expected \(16, 3"):
        models.load_torch_weights(models.build("resnet8"), tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"fc\.weight is \(100, 256\), expected \(10, 256\)"):
        models.load_torch_weights(models.build("resnet8x4", 10), tmp_path / "wide.pth")


TRUNCATED = [name for name in SAVED if not name.startswith("compiled")]


@pytest.mark.parametrize("name", TRUNCATED)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file(name, kept, golden_dir, tmp_path):
    _, state = golden(golden_dir, "resnet8x4")
    SAVED[name](state, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"{name} is (truncated|not a file of weights)"):
        models.load_torch_weights(models.build("resnet8x4"), tmp_path / name)


class _RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("wrapped", [True, False])
def test_pickle_that_would_run_code(wrapped, tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "evil.pth"
    if wrapped:
        torch.save({"model": {"conv1.weight": _RunsCode(marker)}}, file)
    else:
        file.write_bytes(pickle.dumps(_RunsCode(marker), protocol=2))
    with pytest.raises(
        ValueError, match=r"evil\.pth is not a file of weights alone .*refers to posix.mkdir"
    ) as e:
        models.load_torch_weights(models.build("resnet8"), file)
    assert "weights_only" not in str(e.value)
    assert not marker.exists()
    # The file is what it claims to be: without the guard it does run.
    torch.load(file, weights_only=False) if wrapped else pickle.loads(file.read_bytes())
    assert marker.is_dir()


def test_whole_modules_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"Save `model\.state_dict"):
        models.load_torch_weights(models.build("resnet8"), tmp_path / "module.pth")


def test_torchscript_is_recognized(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net\.pt is a TorchScript program.*state_dict"):
        models.load_torch_weights(models.build("resnet8"), tmp_path / "net.pt")


@pytest.mark.parametrize(
    "content, received", [([1], "list"), ({"loss": 1.0, "acc": 2.0}, "loss, acc"), ({}, "dict")]
)
def test_no_state_dict_inside(content, received, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"must hold a state dict.*{received}"):
        models.load_torch_weights(models.build("resnet8"), tmp_path / "x.pth")


def test_file_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a file"):
        models.load_torch_weights(models.build("resnet8"), tmp_path / "none.pth")


@pytest.mark.parametrize("name, module", [("a.pth", "torch"), ("a.safetensors", "safetensors")])
def test_optional_packages_are_named(name, module, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'letkd-keras\[torch\]'"):
        models.load_torch_weights(models.build("resnet8"), tmp_path / name)
