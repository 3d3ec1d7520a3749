"""The two networks of an experiment, of the zoo or of a file, and where they are tapped."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np

from letkd_keras import models
from letkd_keras.functional.graph import find_layer, flatten, grid_ratio, output_of, spatial_shape
from letkd_keras.functional.layer_suggestions import suggest_layers
from letkd_keras.functional.softmax_removal import remove_softmax

log = logging.getLogger("letkd_keras")


@dataclass(frozen=True)
class Network:
    """A network of the zoo, or of a `.keras` file with its weights.

    Attributes:
        name: Its name in the zoo, or the path of the file.
        penultimate: Layer of the last feature map; `None` to have it proposed (`suggest_layers`).
        intermediate: Layer at the end of the first block of the last stage; `None` likewise.
    """

    name: str
    penultimate: str | None = None
    intermediate: str | None = None

    @property
    def is_file(self):
        """Whether the network comes from a file."""
        return Path(self.name).suffix != ""

    @property
    def title(self):
        """What a report calls it."""
        return Path(self.name).stem if self.is_file else self.name

    def config(self):
        """The network as a JSON-like dictionary."""
        return asdict(self)

    def image_size(self):
        """Height of the images that the network of a file takes; `None` where it takes any."""
        return _load(Path(self.name), "network").input_shape[1] if self.is_file else None

    def build(self, data, argument):
        """The network for a data set.

        A network of the zoo has fresh weights. Where the data are raw pixels (a mean of 0), it
        begins with a layer that brings them to -1..1, and so takes them as they are. A file's that
        takes images of any size is built for those of the data, so that its grids are known.

        Args:
            data: `ImageData` or what has its attributes.
            argument: What an error calls the network.

        Returns:
            A functional `keras.Model` from images to logits.

        Raises:
            FileNotFoundError: If the file is not there.
            ValueError: If the file is no functional classifier of these images and classes, or the
                name is not in the zoo.
        """
        if self.is_file:
            model = _load(Path(self.name), argument)
            _check_fits(model, data, argument)
            return _of_size(model, data.image_shape) if None in model.input_shape[1:] else model
        return _of_zoo(self.name, data)

    def taps(self, model, argument):
        """Layers of the built network by level: those named, others as proposed.

        Returns:
            `{"penultimate": name, "intermediate": name or None}`.

        Raises:
            ValueError: If a named one is not in the model.
        """
        named = {"penultimate": self.penultimate, "intermediate": self.intermediate}
        flat = flatten(model)
        for tap in named.values():
            if tap is not None:
                find_layer(flat, tap, argument=f"{argument} tap")
        if None not in named.values():
            return named
        proposed = suggest_layers(model)
        taps = {level: tap or proposed[level] for level, tap in named.items()}
        if self.is_file:
            log.info("%s taps of %s: %s", argument, model.name, _described(taps, flat))
        return taps


def _described(taps, model):
    shapes = {
        level: output_of(model, find_layer(model, tap)).shape[1:]
        for level, tap in taps.items()
        if tap
    }
    return ", ".join(
        f"{level} {tap} {'x'.join(map(str, shapes[level]))}" if tap else f"no {level}"
        for level, tap in taps.items()
    )


def _load(path, argument):
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be a .keras file. Received: {str(path)!r}")
    try:
        model = keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"`{argument}` must be a whole .keras file of layers that Keras or this package has. "
            f"Received: {str(path)!r}: {str(error).splitlines()[0]}"
        ) from error
    model = remove_softmax(model, argument)
    if len(model.input_shape) != 4 or len(model.output_shape) != 2:
        raise ValueError(
            f"`{argument}` must be a classifier of images, from [B, H, W, C] to [B, classes]. "
            f"Received: {str(path)!r}, from {model.input_shape} to {model.output_shape}"
        )
    return model


def _check_fits(model, data, argument):
    classes, images = model.output_shape[-1], model.input_shape[1:]
    if classes != data.num_classes:
        raise ValueError(
            f"`{argument}` must have the {data.num_classes} classes of {data.name}. "
            f"Received: {classes}"
        )
    if any(
        wanted not in (None, size) for wanted, size in zip(images, data.image_shape, strict=True)
    ):
        raise ValueError(
            f"`{argument}` must take the images of {data.name}, {tuple(data.image_shape)}. "
            f"Received: a model of {tuple(images)}"
        )


def _of_zoo(name, data):
    model = models.build(name, num_classes=data.num_classes, input_shape=data.image_shape)
    if np.any(data.mean):
        return model
    rescaling = keras.layers.Rescaling(2 * float(np.max(data.std)), offset=-1.0, name="rescaling")
    return _of_size(model, data.image_shape, rescaling)


def _of_size(model, image_shape, preprocessing=lambda images: images):
    inputs = keras.Input(image_shape, name="image")
    return flatten(keras.Model(inputs, model(preprocessing(inputs)), name=model.name))


def grid(model, tap):
    """Height and width of the feature map at a tap.

    Raises:
        ValueError: If what the layer puts out is no feature map.
    """
    flat = flatten(model)
    shape = output_of(flat, find_layer(flat, tap)).shape
    if len(shape) != 4:
        raise ValueError(
            f"A tap must be a layer with feature maps [B, H, W, C]. Received: {tap!r} of "
            f"{model.name!r}, whose output is {tuple(shape)}"
        )
    return spatial_shape(shape)


def pools(teacher, teacher_layers, student, student_layers, levels):
    """Windows by which the teacher's grids become the student's, by level.

    Where the student's grid is the finer one, the window is 1 and `LetKD` averages its scores.

    Raises:
        ValueError: If neither grid divides the other, with both sizes.
    """
    windows = {}
    for level in levels:
        theirs, ours = grid(teacher, teacher_layers[level]), grid(student, student_layers[level])
        window = grid_ratio(theirs, ours)
        if window is None and grid_ratio(ours, theirs) is None:
            raise ValueError(
                f"One {level} grid must divide the other. Received: the teacher's "
                f"{theirs[0]}x{theirs[1]} ({teacher_layers[level]!r}) and the student's "
                f"{ours[0]}x{ours[1]} ({student_layers[level]!r})"
            )
        windows[level] = window or 1
    return windows
