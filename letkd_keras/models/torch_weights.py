"""Checkpoints of PyTorch programs into the networks of the zoo, without running their code."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

from letkd_keras.models.state_dict import assign_state_dict

# Where training programs keep the state dict inside a checkpoint: RepDistiller and mdistiller under
# "model", torchvision's references too, most ImageNet programs under "state_dict".
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
# What wrappers put before names: `DataParallel` and `DistributedDataParallel`, and `torch.compile`.
_PREFIXES = ("module.", "_orig_mod.")


def load_torch_weights(model, path):
    """Load a PyTorch checkpoint into a network of the zoo, in place.

    It reads RepDistiller's and mdistiller's `.pth` (a dictionary with the state dict under
    `"model"`), checkpoints with the state dict under `"state_dict"`, plain state dicts, and
    `.safetensors` files. Names may have the prefixes `module.` of data-parallel training and
    `_orig_mod.` of `torch.compile`.

    Names are those of RepDistiller for the CIFAR networks, of torchvision (`resnet18`, `resnet34`,
    `resnet50`, `mobilenet_v2`) for `imagenet_resnet*` and `imagenet_mobilenet_v2`. Torchvision has
    no MobileNetV1: `imagenet_mobilenet_v1` takes the names `model.0.0` to `model.13.4` and `fc` of
    the distillation literature (mdistiller's `MobileNetV1`).

    A `.pth` is a pickle, which may run code when it is read; it is read in PyTorch's weights-only
    mode, which refuses to.

    Args:
        model: A model of `letkd_keras.models.build`, of the same width and number of classes.
        path: `.safetensors` file, or any other suffix for a file of `torch.save`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If PyTorch, or safetensors for such a file, is not installed.
        ValueError: If the file is broken, would run code or holds no state dict, or if names are
            missing or unexpected or a shape differs; all of them are listed. The model is then as
            it was.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a file. Received: path={str(path)!r}")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    arrays = _state_dict(read(path), path)
    try:
        assign_state_dict(model, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return model


def _read_torch(path):
    if _is_torchscript(path):
        raise ValueError(
            f"{path} is a TorchScript program, which is not run. Save its weights alone: "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is read by PyTorch: pip install 'letkd-keras[torch]'. A .safetensors file "
            "needs no PyTorch."
        ) from error
    try:
        # RepDistiller's last checkpoints have the options of their command line beside the weights.
        with (
            torch.serialization.safe_globals([argparse.Namespace, *_numpy_scalars()]),
            warnings.catch_warnings(action="ignore"),  # about files that are refused below
        ):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a file of weights alone ({_reason(error)}). It was not loaded, since "
            "that could run code. Save `model.state_dict()` by itself where the file comes from."
        ) from error
    except Exception as error:  # PyTorch raises errors of many types here
        raise ValueError(
            f"{path} is truncated or not a file of torch.save ({_reason(error)})"
        ) from error


def _is_torchscript(path):
    """Whether a file is an archive of `torch.jit.save`: it has code beside the weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _numpy_scalars():
    """What PyTorch must be allowed to rebuild an accuracy that is saved as a NumPy number."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    dtypes = {type(np.dtype(kind)) for kind in ("float32", "float64", "int64")}
    # NumPy 1 wrote another module name for the same function.
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *dtypes,
    ]


def _read_safetensors(path):
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ImportError(
            f"{path} is read by safetensors: pip install 'letkd-keras[torch]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: a type NumPy does not know
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from error


def _state_dict(loaded, path):
    """Names and arrays of a checkpoint, unwrapped."""
    state = loaded
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            state = loaded[wrapper]
            break
    entries = state.items() if isinstance(state, Mapping) else ()
    if not entries or not all(isinstance(name, str) and _is_array(x) for name, x in entries):
        keys = f"a dictionary of {', '.join(map(str, state))}" if isinstance(state, Mapping) else ""
        raise ValueError(
            f"{path} must hold a state dict, by itself or under one of {', '.join(_WRAPPERS)}. "
            f"Received: {keys or type(state)}"
        )
    while prefix := _prefix_of_all(state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    for name, value in state.items():
        if hasattr(value, "numpy") and (value.is_complex() or str(value.layout) != "torch.strided"):
            raise ValueError(
                f"{path} must hold dense tensors of real numbers. "
                f"Received: {name} of {value.dtype}, {value.layout}"
            )
    return {name: _array(value) for name, value in state.items()}


def _prefix_of_all(state):
    """The wrapper's prefix that all names have, or `None`."""
    return next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)


def _is_array(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _array(value):
    if hasattr(value, "numpy"):  # a tensor; NumPy has no bfloat16
        return value.detach().float().numpy()
    return value.astype("float32")


def _reason(error):
    """The gist of PyTorch's long messages, without their advice to run the code."""
    message = str(error).strip() or type(error).__name__
    refused = re.search(r"GLOBAL (\S+)", message)
    return f"it refers to {refused[1]}" if refused else message.splitlines()[0].split(". ")[0]
