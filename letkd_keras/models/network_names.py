"""Names of networks in commands and configurations. Nothing heavy is imported to check one.

| name | network |
|---|---|
| `resnet56` | a network of the zoo |
| `keras.applications:EfficientNetV2B0` | a network of `keras.applications` |
| `keras_hub:PRESET`, `hf://USER/MODEL`, `kaggle://...` | a preset of keras-hub |
| `teacher.keras` | a saved classifier |
| `teacher.onnx` | a classifier in an ONNX file, which cannot be trained |
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from letkd_keras.errors import check_packages
from letkd_keras.models import zoo

_APPLICATIONS = "keras.applications:"
_HUB = "keras_hub:"
_HANDLES = ("hf://", "kaggle://", "modelscope://")


@dataclass(frozen=True)
class Application:
    """What a network of `keras.applications` expects of its images.

    Attributes:
        pixels: Scale of the pixels that its weights were trained with: a name of
            `letkd_keras.data.normalization.PIXELS`, or `"caffe"`: BGR from 0 to 255, less the mean
            of ImageNet. `"0..255"` where layers inside the network scale them.
        size: Height and width of the images that its weights were trained with.
        smallest: Smallest height and width that it takes.
    """

    pixels: str
    size: int = 224
    smallest: int = 32


# What `preprocess_input` of each module does, and the smallest size that its builders allow.
APPLICATIONS = {
    **{
        f"ConvNeXt{size}": Application("0..255")
        for size in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
    **{f"DenseNet{depth}": Application("imagenet") for depth in (121, 169, 201)},
    **{
        f"EfficientNetB{index}": Application("0..255", size)
        for index, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    **{
        f"EfficientNetV2{name}": Application("0..255", size)
        for name, size in {
            **{"B0": 224, "B1": 240, "B2": 260, "B3": 300},
            **{"S": 384, "M": 480, "L": 480},
        }.items()
    },
    "InceptionResNetV2": Application("-1..1", 299, smallest=75),
    "InceptionV3": Application("-1..1", 299, smallest=75),
    "MobileNet": Application("-1..1"),
    "MobileNetV2": Application("-1..1"),
    "MobileNetV3Large": Application("0..255"),
    "MobileNetV3Small": Application("0..255"),
    "NASNetLarge": Application("-1..1", 331),
    "NASNetMobile": Application("-1..1"),
    **{f"ResNet{depth}": Application("caffe") for depth in (50, 101, 152)},
    **{f"ResNet{depth}V2": Application("-1..1") for depth in (50, 101, 152)},
    "VGG16": Application("caffe"),
    "VGG19": Application("caffe"),
    "Xception": Application("-1..1", 299, smallest=71),
}

# Weights by kind of network. The first is the default.
_WEIGHTS = {
    "zoo": ("none",),
    "applications": ("none", "imagenet"),
    "hub": ("preset", "none"),
    "file": ("file",),
}


@dataclass(frozen=True)
class NetworkName:
    """A name in its parts.

    Attributes:
        kind: `"zoo"`, `"applications"`, `"hub"` or `"file"`.
        name: The name without the prefix that says the kind; of a file its path.
    """

    kind: str
    name: str

    @property
    def title(self):
        """A short name for tables."""
        if self.kind == "file":
            return Path(self.name).stem
        return self.name.rstrip("/").split("/")[-1]

    def resolve_weights(self, weights=None, argument="network"):
        """The weights that a network starts from.

        Args:
            weights: `"none"`, `"imagenet"` (keras.applications), `"preset"` (keras-hub), or `None`
                for the default: the weights that a preset or a file has, otherwise fresh ones.
            argument: Name of the network in errors; that of the weights is `{argument}_weights`.

        Returns:
            `"none"`, `"imagenet"`, `"preset"` or `"file"`.

        Raises:
            ValueError: If the network does not have these weights.
        """
        allowed = _WEIGHTS[self.kind]
        if weights is None:
            return allowed[0]
        if weights not in allowed:
            raise ValueError(
                f"`{argument}_weights` must be {' or '.join(map(repr, allowed))} for "
                f"{self.name!r}. Received: {argument}_weights={weights!r}"
            )
        return weights


def parse_network_name(name):
    """Take a name apart; whether the network exists is not checked.

    Returns:
        `NetworkName`.
    """
    name = str(name)
    for prefix, kind in ((_APPLICATIONS, "applications"), (_HUB, "hub")):
        if name.startswith(prefix):
            return NetworkName(kind, name.removeprefix(prefix))
    if name.startswith(_HANDLES):
        return NetworkName("hub", name)
    path = Path(name)
    if path.suffix in (".keras", ".onnx", ".h5", ".hdf5") or path.is_file() or len(path.parts) > 1:
        return NetworkName("file", name)
    return NetworkName("zoo", name)


def check_network_name(name, argument="network"):
    """Check a name before any long work, without importing Keras or TensorFlow.

    Whether a preset of keras-hub exists is known only once it is opened.

    Args:
        name: The name, as in the table above.
        argument: Name of the network in errors.

    Returns:
        `NetworkName`.

    Raises:
        ValueError: If there is no network of this name; the message suggests one. If it is a model.
        FileNotFoundError: If there is no such file.
        ImportError: If keras-hub is needed and not installed.
    """
    if not isinstance(name, str | Path):
        raise ValueError(
            f"`{argument}` must be a name or a path; put layers before a model in memory by "
            "`keras.Sequential([keras.Input(shape), keras.layers.Rescaling(scale), model])`. "
            f"Received: {argument} of type {type(name).__name__}"
        )
    parsed = parse_network_name(name)
    _CHECKS[parsed.kind](parsed, name, argument)
    return parsed


def _check_application(parsed, name, argument):
    if parsed.name not in APPLICATIONS:
        hint = zoo.network_hint(parsed.name, APPLICATIONS, _APPLICATIONS)
        raise ValueError(
            f"`{argument}` must be one of keras.applications: {', '.join(APPLICATIONS)}. "
            f"Received: {argument}={name!r}.{hint}"
        )


def _check_hub(parsed, name, argument):
    if not parsed.name:
        raise ValueError(
            f"`{argument}` must have the name of a preset after 'keras_hub:'. "
            f"Received: {argument}={name!r}"
        )
    if importlib.util.find_spec("keras_hub") is None:
        raise ImportError(f"`{argument}` needs keras-hub for {name!r}: pip install keras-hub")


def _check_file(parsed, name, argument):
    path = Path(parsed.name)
    _check_no_saved_model(path, name, argument)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        file = "an .onnx" if path.suffix == ".onnx" else "a .keras"
        raise FileNotFoundError(
            f"`{argument}` must be {file} file or the name of a network. "
            f"Received: {argument}={name!r}, which {kind}"
        )
    if path.name.endswith(".weights.h5"):
        whole = f"{path.name.removesuffix('.weights.h5')}.keras"
        raise ValueError(
            f"`{argument}` must be a .keras file of a whole model, not weights alone. Build the "
            f"model, then: model.load_weights('{path.name}'); model.save('{whole}'). "
            f"Received: {argument}={name!r}"
        )
    if path.suffix == ".onnx":
        check_packages(("onnx", "onnxruntime"), argument, name)
        return
    if path.suffix in (".pt", ".pth", ".safetensors"):
        raise ValueError(
            f"`{argument}` must be a .keras file; one of PyTorch has weights, but no layers. For a "
            "network of the zoo, convert it: python -m letkd_keras.models. Of another teacher, "
            f"export the model: torch.onnx.export. Received: {argument}={name!r}"
        )
    if path.suffix != ".keras":
        raise ValueError(
            f"`{argument}` must be a .keras file. Convert it: "
            f"keras.models.load_model(...).save('{path.stem}.keras'). "
            f"Received: {argument}={name!r}"
        )


def _check_no_saved_model(path, name, argument):
    if (path / "saved_model.pb").is_file():
        raise ValueError(
            f"`{argument}` must be a .keras file; Keras 3 cannot read the layers of a SavedModel. "
            f"Save the model that it was made from: model.save('{path.name}.keras'). Or convert a "
            f"teacher: python -m tf2onnx.convert --saved-model {path.name} --output teacher.onnx. "
            f"Received: {argument}={name!r}, which is a SavedModel"
        )


def _check_zoo(parsed, name, argument):
    if parsed.name in zoo.names():
        return
    _check_no_saved_model(Path(name), name, argument)
    # keras.applications.ResNet50 and ResNet50 mean keras.applications:ResNet50.
    bare = parsed.name.removeprefix("keras.applications.")
    exact = {each.lower(): each for each in APPLICATIONS}.get(bare.lower())
    if exact:
        hint = f" Did you mean {_APPLICATIONS + exact!r}?"
    else:
        hint = zoo.network_hint(bare, zoo.names()) or zoo.network_hint(
            bare, APPLICATIONS, _APPLICATIONS
        )
    raise ValueError(
        f"`{argument}` must be a network of the zoo ({', '.join(zoo.names())}), "
        "keras.applications:NAME, keras_hub:PRESET, hf://USER/MODEL or a .keras file. "
        f"Received: {argument}={name!r}.{hint}"
    )


_CHECKS = {
    "zoo": _check_zoo,
    "applications": _check_application,
    "hub": _check_hub,
    "file": _check_file,
}
