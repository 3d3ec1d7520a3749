import importlib.util
import json
import tempfile
import warnings
import zipfile
from pathlib import Path

import keras

from letkd_keras.errors import error_reason
from letkd_keras.functional.onnx_file import open_onnx

# Largest size of the entries of a .keras file once unpacked. Configurations are text of a few
# megabytes at most. Keras stores weights without compression, so that they take as much space in
# memory as in the file.
_LARGEST_TEXT = 64 * 2**20
_LARGEST_RATIO = 16
_TEXTS = ("config.json", "metadata.json")
# Packages whose classes Keras imports by itself; those of others must be registered.
_IMPORTED = ("keras", "keras_hub", "keras_cv", "keras_nlp", "builtins")


def load_model(path, argument="path"):
    """Load a `.keras` file, or fail with one clear sentence.

    Args:
        path: The file. An `.onnx` file is opened by `open_onnx`.
        argument: Name of the path in errors.

    Returns:
        A `keras.Model` that is not compiled.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it has layers of a package that is not installed.
        ValueError: If it is not a complete `.keras` file, needs classes that are not registered, or
            declares contents that are far larger than the file (`config.json` and `metadata.json`
            above 64 MB, others above 64 MB and 16 times the size of the file).
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return open_onnx(path, argument=argument)
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be a .keras file. Received: {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`{argument}` must be a complete .keras file. Received: {str(path)!r}")
    _check_sizes(path, argument)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises errors of many types here
        missing = _missing_packages(path)
        if missing:
            raise ImportError(
                f"`{argument}` needs {' and '.join(missing)}: pip install {' '.join(missing)}. "
                f"Received: {str(path)!r}"
            ) from error
        if isinstance(error, ImportError):  # of a layer that says what it needs
            raise
        subclass = _unknown_class(path)
        if subclass is not None:
            raise ValueError(
                f"`{argument}` must be a .keras file of a functional or sequential model: build "
                "such a model from the layers of yours, and save it (docs/your_models.md). "
                f"Received: {str(path)!r}, a subclassed model of the class {subclass!r}"
            ) from error
        unknown = _unknown_layers(path)
        reason = (
            f" with {' and '.join(map(repr, unknown))}" if unknown else f": {error_reason(error)}"
        )
        raise ValueError(
            f"`{argument}` must be a .keras file with layers of Keras or of this package. "
            f"Received: {str(path)!r}{reason}"
        ) from error


def model_bytes(model):
    """The content of the `.keras` file of a model, to be sent to another process."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Nobody asked for the file: a remark that it has no optimizer would only confuse.
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def model_of_bytes(content, argument="content"):
    """The model of which `model_bytes` gave the content.

    Arguments besides `content`, result and errors are those of `load_model`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return load_model(path, argument)


def _check_sizes(path, argument):
    """Refuse a file that would fill the memory when it is unpacked."""
    allowed = max(_LARGEST_TEXT, _LARGEST_RATIO * path.stat().st_size)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"`{argument}` must be a complete .keras file. Received: {str(path)!r} ({error})"
        ) from error
    for entry in entries:
        largest = _LARGEST_TEXT if entry.filename in _TEXTS else allowed
        # zipfile never reads more than the size that is declared.
        if entry.file_size > largest:
            raise ValueError(
                f"`{argument}` must be a .keras file with contents of a plausible size. Received: "
                f"{str(path)!r}, whose {entry.filename} has {entry.file_size} bytes"
            )


def model_name(path):
    """Name of the model in a `.keras` file, which is not loaded.

    Args:
        path: The file.

    Returns:
        The name, or `None` where there is none that can be read.
    """
    config = _config(path).get("config")
    return config.get("name") if isinstance(config, dict) else None


def _config(path):
    """The configuration of the model in a file; an empty one where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _LARGEST_TEXT:
                return {}
            config = json.loads(archive.read("config.json"))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile):
        return {}
    return config if isinstance(config, dict) else {}


def _unknown_class(path):
    """Name of the class of the model in a file, if it is the user's own; otherwise `None`."""
    config = _config(path)
    name = config.get("registered_name")
    if not isinstance(name, str) or str(config.get("module")).startswith("keras."):
        return None
    known = keras.saving.get_registered_object(name) is not None
    return None if known else config.get("class_name")


def _unknown_layers(path):
    """Names of the registered classes in a file that are not registered in this process."""
    names = {
        part["class_name"]: part.get("registered_name")
        for part in _parts(_config(path))
        if str(part.get("module")).split(".")[0] not in _IMPORTED
    }
    return sorted(
        name
        for name, registered in names.items()
        if isinstance(registered, str) and keras.saving.get_registered_object(registered) is None
    )


def _missing_packages(path):
    """Names of the packages that a file has classes of and that are not installed."""
    modules = [part.get("module") for part in _parts(_config(path))]
    packages = {module.split(".")[0] for module in modules if isinstance(module, str)}
    # Names as on the Python Package Index: keras_hub comes from keras-hub.
    return sorted(
        package.replace("_", "-")
        for package in packages
        if package.isidentifier() and importlib.util.find_spec(package) is None
    )


def _parts(config):
    """The configurations of classes in one of Keras, of nested dictionaries and lists."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        config = config.values()
    elif not isinstance(config, list):
        return
    for part in config:
        yield from _parts(part)
