"""Classifiers by name: of the zoo, of keras.applications, of keras-hub, of a file."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from letkd_keras.data.normalization import PIXELS, statistics_of
from letkd_keras.data_format import spatial_shape
from letkd_keras.errors import error_reason
from letkd_keras.functional.graph import as_functional, flatten, flatten_if_savable
from letkd_keras.functional.loading import load_model
from letkd_keras.functional.softmax_removal import remove_softmax
from letkd_keras.models import zoo
from letkd_keras.models.heads import add_head, free_name
from letkd_keras.models.network_names import APPLICATIONS, check_network_name
from letkd_keras.ranges import class_count, positive_integer
from letkd_keras.shapes import shapes_agree

# Mean of the channels red, green and blue that `mode="caffe"` of keras.applications subtracts.
_CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class OpenedNetwork:
    """A classifier that was opened by name.

    Attributes:
        model: Functional `keras.Model` from images to logits.
        trained: Which weights are trained ones: `"nothing"`, `"backbone"` (the head is a new one,
            see `letkd_keras.models.frozen_backbone`) or `"everything"`.
    """

    model: keras.Model
    trained: str


def open_network(
    name,
    *,
    num_classes,
    image_size,
    weights=None,
    input_size=None,
    pixels=None,
    data_pixels="0..255",
    channels=3,
    argument="network",
):
    """Open a classifier by name, with the preprocessing that it needs as its first layers.

    Teacher and student can be given the same images, whatever each was trained with: a layer
    `input_resizing` resizes them (bilinear) where the network computes on another size, and a
    layer `input_scaling` scales the pixels as the network expects them.

    Args:
        name: `"resnet56"` (a network of the zoo), `"keras.applications:EfficientNetV2B0"`,
            `"keras_hub:PRESET"` or `"hf://USER/MODEL"` (keras-hub), or the path of a `.keras` file,
            or of an `.onnx` file, which cannot be trained (`letkd_keras.functional.open_onnx`).
        num_classes: Number of classes, at least 2. A network with trained weights for other classes
            gets a new head (`add_head`).
        image_size: Height and width of the images that the model takes.
        weights: `"none"` for fresh weights, `"imagenet"` for those of keras.applications,
            `"preset"` for those of keras-hub. `None` means those that a preset or a file has,
            otherwise fresh ones.
        input_size: Height and width that the network itself computes on. `None` means
            `image_size`, unless the network takes one size only, or larger ones only.
        pixels: Scale of the pixels that the network itself takes, for the zoo and for files: a name
            of `letkd_keras.data.normalization.PIXELS`, or mean and standard deviation of each
            channel, of pixels in [0, 1]. `None` means that of the images; for a network of the zoo
            and images from 0 to 255 it means `"-1..1"`. Networks of keras.applications and
            keras-hub have their own.
        data_pixels: Scale of the pixels that the model is given, likewise.
        channels: Channels of the images. Other than 3 only for the zoo and for files.
        argument: Name of the network in errors.

    Returns:
        `OpenedNetwork`. Its model takes float32 images [B, image_size, image_size, channels]. It
        has no models inside where it can be saved in that form
        (`letkd_keras.functional.graph.flatten_if_savable`).

    Raises:
        ValueError: If there is no such network, it does not fit these images and classes, or a
            number is out of range.
        FileNotFoundError: If the file does not exist, or weights are neither on this computer nor
            can be downloaded.
        ImportError: If keras-hub, or a package with the layers of the file, is not installed.
    """
    class_count.check(num_classes, "num_classes")
    positive_integer.check(image_size, "image_size")
    if input_size is not None:
        positive_integer.check(input_size, "input_size")
    parsed = check_network_name(name, argument)
    weights = parsed.resolve_weights(weights, argument)
    if parsed.kind in ("applications", "hub"):
        if pixels is not None:
            raise ValueError(
                f"`{argument}` {name!r} scales pixels itself. Received: pixels={pixels!r}"
            )
        if channels != 3:
            raise ValueError(
                f"`{argument}` {name!r} takes images of three channels. Received: {channels}"
            )
    request = _Request(parsed.name, num_classes, image_size, weights, input_size, argument)
    given = _statistics(data_pixels, channels, "data_pixels")
    expected = None if pixels is None else _statistics(pixels, channels, "pixels")
    if parsed.kind == "zoo":
        expected = expected or pixels_of_zoo(given)
        model, trained = _from_zoo(request, channels), "nothing"
    elif parsed.kind == "file":
        model, trained = _from_file(request, channels)
    elif parsed.kind == "applications":
        model, expected, trained = _from_applications(request)
    else:
        model, expected, trained = _from_hub(request)
    if input_size is not None:
        taken = model.input_shape[1:]
        wanted = zoo.image_shape(input_size, channels)
        if not shapes_agree(taken, wanted):
            raise ValueError(
                f"`input_size` must be a size that `{argument}` {name!r} takes, or be left out. "
                f"Received: input_size={input_size} for a network of images of shape {taken}"
            )
    model = _with_preprocessing(
        remove_softmax(model, argument),
        image_shape=zoo.image_shape(image_size, channels),
        input_size=input_size,
        given=given,
        expected=expected or given,
    )
    return OpenedNetwork(model, trained)


def pixels_of_zoo(given):
    """The `(mean, std)` that networks of the zoo get: pixels from 0 to 255 become -1 to 1."""
    channels = len(given[0])
    is_raw = given == statistics_of("0..255", channels)
    return statistics_of("-1..1", channels) if is_raw else given


def scaling_layer(given, expected, name="input_scaling"):
    """The layer that turns pixels of one `(mean, std)` into those of another; `None` if equal."""
    (given_mean, given_std), (mean, std) = (np.array(each, "float64") for each in (given, expected))
    # (p - mean) / std of pixels p in [0, 1], of which there is (p - mean') / std'.
    scale, offset = given_std / std, (given_mean - mean) / std
    if np.allclose(scale, 1, rtol=1e-7) and np.allclose(offset, 0, atol=1e-7):
        return None
    scale, offset = (
        part[0].item() if np.all(part == part[0]) else part.tolist() for part in (scale, offset)
    )
    return keras.layers.Rescaling(scale, offset, name=name)


@dataclass(frozen=True)
class _Request:
    """What is wanted, for the functions below."""

    name: str
    num_classes: int
    image_size: int
    weights: str
    input_size: int | None
    argument: str

    @property
    def size(self):
        return self.input_size or self.image_size


def _from_zoo(request, channels):
    shape = zoo.image_shape(request.size, channels)
    return zoo.build(request.name, num_classes=request.num_classes, input_shape=shape)


def _from_file(request, channels):
    argument = request.argument
    model = as_functional(load_model(request.name, argument), argument)
    # A backbone without a head has features or tokens for outputs.
    if len(model.input_shape) != 4 or len(model.output_shape) not in (2, 3, 4):
        raise ValueError(
            f"`{argument}` must be a network from images [B, H, W, C] to class scores or features. "
            f"Received: {request.name!r}, from {model.input_shape} to {model.output_shape}"
        )
    if channels not in (model.input_shape[1], model.input_shape[-1]):
        raise ValueError(
            f"`{argument}` must take images of {channels} channels. "
            f"Received: {request.name!r}, which takes {model.input_shape[1:]}"
        )
    if len(model.output_shape) == 2 and model.output_shape[-1] == request.num_classes:
        return model, "everything"
    return add_head(model, request.num_classes, argument=argument), "backbone"


def _from_applications(request):
    row = APPLICATIONS[request.name]
    builder = getattr(keras.applications, request.name)
    size = max(request.size, row.smallest)
    shape = zoo.image_shape(size, 3)
    if request.weights == "none":
        model = builder(
            weights=None,
            input_shape=shape,
            classes=request.num_classes,
            classifier_activation=None,
        )
        trained = "nothing"
    elif request.num_classes == 1000:
        # Keras takes the weights of the head at the size that they were trained with only.
        shape = zoo.image_shape(row.size, 3)
        model = _pretrained(builder, request, input_shape=shape, classifier_activation=None)
        trained = "everything"
    else:
        model = _pretrained(builder, request, input_shape=shape, include_top=False)
        model = add_head(model, request.num_classes, argument=request.argument)
        trained = "backbone"
    if row.pixels == "caffe":
        model = _reading_rgb(model)
        return model, (tuple(mean / 255 for mean in _CAFFE_MEAN), (1 / 255,) * 3), trained
    return model, PIXELS[row.pixels], trained


def _pretrained(builder, request, **kwargs):
    try:
        return builder(weights="imagenet", **kwargs)
    except Exception as error:  # Keras raises a bare `Exception` when a download fails
        address = re.search(r"URL fetch failure on (\S+?):? ", f"{error} ")
        if address is None and not isinstance(error, OSError):
            raise
        home = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "models"
        file = f"{address[1]} into {home}" if address else f"its weights into {home}"
        raise FileNotFoundError(
            f"`{request.argument}_weights` 'imagenet' of {request.name} are not on this computer "
            f"and could not be downloaded. Put {file}, or use 'none'"
        ) from error


def _reading_rgb(model):
    """Turn a network of blue, green, red images into one of red, green, blue images, in place."""
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, *others = first.get_weights()
    first.set_weights([kernel[:, :, ::-1], *others])  # [h, w, in, out]
    return model


def _from_hub(request):
    import keras_hub

    load = request.weights == "preset"
    classifier = keras_hub.models.ImageClassifier.from_preset
    # The image converter is read by itself, since presets may have none.
    options = {"load_weights": load, "preprocessor": None}
    try:
        try:
            model, has_head = classifier(request.name, **options), True
        except TypeError:  # the preset of a backbone: a classifier needs the number of classes
            classes = request.num_classes
            model, has_head = classifier(request.name, num_classes=classes, **options), False
    except Exception:  # no classifier of this architecture, or no such preset
        model, has_head = _hub_backbone(request, load), False
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(request.name)
        expected = _converted(converter)
    except (ValueError, FileNotFoundError):
        expected = statistics_of("0..255", 3)
    model = keras.Model(model.inputs, model.outputs, name=model.name)
    if len(model.output_shape) != 2 or model.output_shape[-1] != request.num_classes:
        model = add_head(model, request.num_classes, argument=request.argument)
        has_head = False
    trained = "everything" if has_head else "backbone"
    return model, expected, trained if load else "nothing"


def _hub_backbone(request, load):
    import keras_hub

    try:
        backbone = keras_hub.models.Backbone.from_preset(request.name, load_weights=load)
    except Exception as error:
        raise ValueError(
            f"`{request.argument}` must be a preset of keras-hub that is on this computer or can "
            f"be downloaded. Received: {request.name!r} ({error_reason(error)})"
        ) from error
    if len(backbone.inputs) != 1 or len(backbone.inputs[0].shape) != 4:
        raise ValueError(
            f"`{request.argument}` must be a network of images. "
            f"Received: {request.name!r}, a {type(backbone).__name__}"
        )
    return backbone


def _converted(converter):
    """Mean and standard deviation that do what an image converter of keras-hub does to pixels."""
    scale = np.broadcast_to(1.0 if converter.scale is None else converter.scale, (3,))
    offset = np.broadcast_to(0.0 if converter.offset is None else converter.offset, (3,))
    std = 1 / (255 * scale.astype("float64"))
    return tuple((-offset * std).tolist()), tuple(std.tolist())


def _statistics(pixels, channels, argument):
    """Mean and standard deviation by a name or as given, tuples of floats."""
    if isinstance(pixels, str) and pixels in PIXELS:
        return statistics_of(pixels, channels)
    try:
        mean, std = (np.broadcast_to(np.asarray(part, "float64"), (channels,)) for part in pixels)
        valid = not isinstance(pixels, str) and np.isfinite([mean, std]).all() and std.min() > 0
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(PIXELS)}, or mean and standard deviation "
            f"(greater than 0) of {channels} channels. Received: {argument}={pixels!r}"
        )
    return tuple(mean.tolist()), tuple(std.tolist())


def _with_preprocessing(model, *, image_shape, input_size, given, expected):
    """A model with layers before it that resize and scale images.

    Args:
        model: Functional `keras.Model`.
        image_shape: Shape of an image that the result takes.
        input_size: Height and width for a model that takes any; `None` for that of the images.
        given: Mean and standard deviation of the pixels that the result takes.
        expected: Those of the pixels that the model takes.
    """
    flat = flatten(model)
    images = x = keras.Input(image_shape, name="image")
    image_size = spatial_shape(images.shape)
    size = tuple(
        own or input_size or got
        for own, got in zip(spatial_shape(flat.input_shape), image_size, strict=True)
    )
    if size != image_size:
        # Without an explicit `training`, Keras' layer would take True, and all layers after it too.
        resizing = keras.layers.Resizing(*size, name=free_name(flat, "input_resizing"))
        x = resizing(x, training=False)
    scaling = scaling_layer(given, expected, free_name(flat, "input_scaling"))
    if scaling is not None:
        x = scaling(x)
    if x is images and flat.input_shape == images.shape:
        return flatten_if_savable(model)
    return flatten_if_savable(keras.Model(images, model(x), name=model.name))
