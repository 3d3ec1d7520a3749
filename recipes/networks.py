"""The two networks of an experiment, from the zoo or from a file, and their layers."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from letkd_keras import models
from letkd_keras.functional import fingerprint, load_model, remove_softmax, suggest_layers
from letkd_keras.functional.graph import find_layer, flatten, grid_ratio, output_of, spatial_shape

log = logging.getLogger("letkd_keras")


@dataclass(frozen=True)
class Network:
    """A network of the zoo, or of a `.keras` file with its weights.

    Attributes:
        title: Its name in the zoo, or the name of the file without its suffix.
        file: Path of the file, or `None`.
        penultimate_layer: Layer with the last feature map; `None` to have it suggested.
        intermediate_layer: Layer at the end of the first block of the last stage; `None` likewise,
            or where the network has none.
        fingerprint: Fingerprint of the file's weights, or `None` before the file was loaded.
    """

    title: str
    file: str | None = None
    penultimate_layer: str | None = None
    intermediate_layer: str | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, name, penultimate_layer=None, intermediate_layer=None):
        """The network of a name in the zoo or of a path with a suffix."""
        path = Path(name)
        layers = {
            "penultimate_layer": penultimate_layer,
            "intermediate_layer": intermediate_layer,
        }
        if path.suffix:
            return cls(path.stem, str(path), **layers)
        return cls(str(name), **layers)

    def check(self, argument):
        """Refuse a name that is not in the zoo, or a file that does not exist.

        Raises:
            ValueError: If the name is unknown.
            FileNotFoundError: If there is no such file.
        """
        if self.file is not None:
            if not Path(self.file).is_file():
                raise FileNotFoundError(
                    f"`{argument}` must be a .keras file or the name of a network. "
                    f"Received: {argument}={self.file!r}, which does not exist"
                )
        elif self.title not in models.names():
            try:
                models.build(self.title)
            except ValueError as error:
                raise ValueError(str(error).replace("`name`", f"`{argument}`")) from error

    def image_size(self):
        """Height of the images that the network of a file takes; `None` where it takes any."""
        return None if self.file is None else self._load("network").input_shape[1]

    def build(self, data, argument):
        """The network for a data set.

        A network of the zoo has fresh weights. Where the data are raw pixels (their mean is 0), it
        starts with a layer that scales them to -1..1. A network from a file that takes images of
        any size is rebuilt for the size of the data's, so that its grids are known.

        Args:
            data: `ImageData`, or an object with its attributes.
            argument: Name of the network in errors.

        Returns:
            A functional `keras.Model` from images to logits.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If the file is not a functional classifier of these images and classes, or
                the name is not in the zoo.
        """
        if self.file is None:
            return _from_zoo(self.title, data)
        model = self._load(argument)
        _check_fits(model, data, argument)
        return _rebuild(model, data.image_shape) if None in model.input_shape[1:] else model

    def _load(self, argument):
        model = remove_softmax(load_model(self.file, argument), argument)
        if len(model.input_shape) != 4 or len(model.output_shape) != 2:
            raise ValueError(
                f"`{argument}` must be a classifier of images, from [B, H, W, C] to [B, classes]. "
                f"Received: {self.file!r}, from {model.input_shape} to {model.output_shape}"
            )
        return model

    def with_layers(self, model, argument, required=True):
        """The same network with its layers resolved, and with the fingerprint of a file's weights.

        Args:
            model: The network as built.
            argument: Name of the network in errors.
            required: Whether layers must be known; otherwise they stay `None` where none can be
                suggested.

        Returns:
            `Network`. `intermediate_layer` stays `None` where none can be suggested.

        Raises:
            ValueError: If a layer that was named is not in the model, or none can be suggested.
        """
        flat = flatten(model)
        given = {
            "penultimate_layer": self.penultimate_layer,
            "intermediate_layer": self.intermediate_layer,
        }
        for name, layer in given.items():
            if layer is not None:
                option = name if argument == "student" else f"{argument}_{name}"
                find_layer(flat, layer, argument=option)
        if None in given.values():
            try:
                suggested = suggest_layers(model)
            except ValueError:
                if required:
                    raise
                suggested = {"penultimate": None, "intermediate": None}
            given = {
                name: layer or suggested[name.removesuffix("_layer")]
                for name, layer in given.items()
            }
        return replace(
            self,
            **given,
            fingerprint=None if self.file is None else fingerprint(model),
        )

    def layer(self, level):
        """The layer of a level."""
        return getattr(self, f"{level}_layer")

    def describe(self, model):
        """The layers and their shapes in a few words."""
        flat = flatten(model)
        parts = []
        for level in ("penultimate", "intermediate"):
            name = self.layer(level)
            if name is not None:
                shape = output_of(flat, find_layer(flat, name)).shape[1:]
                parts.append(f"{level} {name} {'x'.join(map(str, shape))}")
        return ", ".join(parts)


def _check_fits(model, data, argument):
    classes, images = model.output_shape[-1], model.input_shape[1:]
    if classes != data.num_classes:
        raise ValueError(
            f"`{argument}` must have the {data.num_classes} classes of {data.name}. "
            f"Received: {classes}"
        )
    if any(
        size not in (None, expected)
        for size, expected in zip(images, data.image_shape, strict=True)
    ):
        raise ValueError(
            f"`{argument}` must take the images of {data.name}, {tuple(data.image_shape)}. "
            f"Received: a model of {tuple(images)}"
        )


def _from_zoo(name, data):
    model = models.build(name, num_classes=data.num_classes, input_shape=data.image_shape)
    if np.any(data.mean):
        return model
    rescaling = keras.layers.Rescaling(2 * float(np.max(data.std)), offset=-1.0, name="rescaling")
    return _rebuild(model, data.image_shape, rescaling)


def _rebuild(model, image_shape, preprocessing=lambda images: images):
    inputs = keras.Input(image_shape, name="image")
    return flatten(keras.Model(inputs, model(preprocessing(inputs)), name=model.name))


def grid(model, layer):
    """Height and width of the feature map of a layer.

    Raises:
        ValueError: If the layer has no feature map.
    """
    flat = flatten(model)
    shape = output_of(flat, find_layer(flat, layer)).shape
    if len(shape) != 4:
        raise ValueError(
            f"A KD layer needs a layer with feature maps [B, H, W, C]. Received: {layer!r} of "
            f"{model.name!r}, whose output is {tuple(shape)}"
        )
    return spatial_shape(shape)


def pool_size(teacher, teacher_layer, student, student_layer, level):
    """Window of the average pooling that turns the teacher's grid into the student's.

    Where the student's grid is the finer one, the window is 1 and `LetKD` averages its scores.

    Raises:
        ValueError: If neither grid divides the other; both sizes are in the message.
    """
    teacher_grid, student_grid = grid(teacher, teacher_layer), grid(student, student_layer)
    window = grid_ratio(teacher_grid, student_grid)
    if window is None and grid_ratio(student_grid, teacher_grid) is None:
        raise ValueError(
            f"One {level} grid must divide the other. Received: the teacher's "
            f"{teacher_grid[0]}x{teacher_grid[1]} ({teacher_layer!r}) and the student's "
            f"{student_grid[0]}x{student_grid[1]} ({student_layer!r})"
        )
    return window or 1
