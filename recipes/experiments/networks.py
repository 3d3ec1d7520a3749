"""The two networks of an experiment, by name or from a file, and their layers."""

import itertools
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from letkd_keras import models, ranges
from letkd_keras.data_format import spatial_shape
from letkd_keras.distillers.compatibility import check_takes_kd_layer
from letkd_keras.errors import argument_renamed
from letkd_keras.functional import fingerprint, load_model, remove_softmax, suggest_layers
from letkd_keras.functional.composite_layers import outputs_at
from letkd_keras.functional.graph import as_functional, flatten
from letkd_keras.functional.graph_copy import copy_of, finalize_normalization
from letkd_keras.functional.token_grid import feature_maps
from letkd_keras.levels import LEVELS
from letkd_keras.models.network_names import APPLICATIONS, check_network_name, parse_network_name
from letkd_keras.models.networks import (
    OpenedNetwork,
    open_network,
    pixels_of_zoo,
    scaling_layer,
)
from letkd_keras.shapes import grid_ratio, shapes_agree

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Network:
    """A network by name, or of a `.keras` file with its weights.

    Attributes:
        title: Its name without the prefix of its source, or that of the file without its suffix.
        file: Path of the file, or `None`.
        source: Name of a network that is neither of the zoo nor of a file, such as
            `"keras.applications:EfficientNetB0"`, or `None`.
        weights: `"none"`, `"imagenet"`, `"preset"`, or `None` for those that the source has.
        input_size: Height and width that the network itself computes on; `None` for that of the
            images, where it takes them.
        pixels: Scale of the pixels that a file was trained with; `None` for that of the images.
        trained: Which weights are trained ones, see `letkd_keras.models.OpenedNetwork`; known after
            `prepare`.
        penultimate_layer: Layer with the last feature map; `None` to have it suggested.
        intermediate_layer: Layer at the end of the first block of the last stage; `None` likewise,
            or where the network has none.
        fingerprint: Fingerprint of the file's weights, or `None` before the file was loaded. A file
            with other weights is then refused.
    """

    title: str
    file: str | None = None
    source: str | None = None
    weights: str | None = None
    input_size: int | None = None
    pixels: str | None = None
    trained: str | None = None
    penultimate_layer: str | None = None
    intermediate_layer: str | None = None
    fingerprint: str | None = None

    @classmethod
    def of(cls, name, **options):
        """The network of a name (`letkd_keras.models.network_names`).

        Args:
            name: The name, or the path of a file.
            **options: `weights`, `input_size`, `pixels`, `penultimate_layer` and
                `intermediate_layer`.

        Returns:
            `Network`.
        """
        parsed = parse_network_name(name)
        if parsed.kind == "file":
            # An absolute path, so that a configuration is valid in every working folder. A file
            # that does not exist is refused later, by the name that was typed.
            file = os.path.abspath(name) if Path(name).exists() else name  # noqa: PTH100 - links
            return cls(parsed.title, str(file), **options)
        source = None if parsed.kind == "zoo" else str(name)
        return cls(parsed.title, source=source, **options)

    @property
    def name(self):
        """The name that `of` was given."""
        return self.file or self.source or self.title

    @property
    def label(self):
        """What a reader is shown: the title, or the name of the file."""
        return Path(self.file).name if self.file else self.title

    def check(self, argument):
        """Refuse a name that is unknown, a file that does not exist, or weights that it has not.

        Raises:
            ValueError: If the name is unknown, or there are no such weights.
            FileNotFoundError: If there is no such file.
            ImportError: If a package is missing.
        """
        parsed = check_network_name(self.name, argument)
        parsed.resolve_weights(self.weights, argument)
        if self.pixels is not None and parsed.kind in ("applications", "hub"):
            raise ValueError(
                f"`{argument}_pixels` is for networks of files and of the zoo; {self.title} scales "
                f"pixels itself. Received: {argument}_pixels={self.pixels}"
            )

    def image_size(self, argument):
        """Height of the images that the network was trained with; `None` where any size is fine.

        Args:
            argument: Name of the network in errors.

        Raises:
            ValueError: If a file has no network of images, or one of images of a size that no data
                set can have.
        """
        if self.input_size is not None:
            return self.input_size
        if self.file is not None:
            shape = self._load(argument).input_shape
            height = spatial_shape(shape)[0] if len(shape) == 4 else 0
            smallest, largest = ranges.image_size.smallest, ranges.image_size.largest
            if height is not None and not smallest <= height <= largest:
                raise ValueError(
                    f"`{argument}` must take images [B, H, W, C], of {smallest} to {largest} "
                    f"pixels unless `image_size` is given. Received: {argument}={self.file!r}, "
                    f"which takes {shape}"
                )
            return height
        if self.source is None or self.weights in (None, "none"):
            return None
        application = APPLICATIONS.get(self.title)
        return None if application is None else application.size

    def open(self, data, argument):
        """The network for a data set, and which of its weights are trained.

        A network starts with layers that resize and scale the images of the data set as it expects
        them, where that is needed. One of the zoo expects pixels from -1 to 1 where the data are
        raw pixels. A trained network of other classes, or without a classifier, gets a new head. A
        network from a file that takes images of any size is rebuilt for the size of the data's, so
        that its grids are known.

        Args:
            data: `ImageData`, or an object with its attributes.
            argument: Name of the network in errors.

        Returns:
            `OpenedNetwork` with a functional `keras.Model` from images to logits.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is not a network of images, or has other weights than those whose
                fingerprint is known.
        """
        opened = self._open(data, argument)
        if self.fingerprint is not None:
            found = self._fingerprint(opened.model, argument)
            if found != self.fingerprint:
                raise ValueError(
                    f"`{argument}` must have the weights with the fingerprint {self.fingerprint}, "
                    f"as when the run was started. Received: {self.file} with {found}"
                )
        return opened

    def _open(self, data, argument):
        adjusts = self.pixels is not None or self.input_size is not None
        if self.file is None and self.source is None and not adjusts:
            return OpenedNetwork(_from_zoo(self.title, data), "nothing")
        if self.file is not None and not adjusts:
            model = self._load(argument)
            if _fits(model, data):
                model = remove_softmax(model, argument)
                if None in model.input_shape[1:]:
                    model = _rebuild(model, data.image_shape)
                return OpenedNetwork(model, "everything")
        height, width, channels = data.image_shape
        if height != width:
            raise ValueError(
                f"`{argument}` must take the images of {data.name}, {tuple(data.image_shape)}, "
                f"as they are, since only square ones can be resized. "
                f"Received: {argument}={self.name!r}"
            )
        with argument_renamed("input_size", f"{argument}_image_size"):
            opened = open_network(
                self.name,
                num_classes=data.num_classes,
                image_size=height,
                weights=self.weights,
                input_size=self.input_size,
                pixels=self.pixels,
                data_pixels=(tuple(data.mean), tuple(data.std)),
                channels=channels,
                argument=argument,
            )
        return replace(opened, model=_with_stable_names(opened.model))

    def _load(self, argument):
        return as_functional(load_model(self.file, argument), argument)

    def build(self, data, argument):
        """The model of `open`."""
        return self.open(data, argument).model

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
            ValueError: If a layer that was named is not in the model or has tokens that are no
                grid, or none can be suggested.
        """
        layers = {level: self.layer(level) for level in LEVELS}
        for level, name in layers.items():
            if name is not None:
                feature_maps(model, [name], f"{argument}_{level}_layer")
        if None in layers.values():
            try:
                suggested = suggest_layers(model, argument)
            except ValueError:
                if required:
                    raise
                suggested = dict.fromkeys(LEVELS)
            layers = {level: name or suggested[level] for level, name in layers.items()}
        return replace(
            self,
            **{f"{level}_layer": name for level, name in layers.items()},
            fingerprint=None if self.file is None else self._fingerprint(model, argument),
        )

    def _fingerprint(self, model, argument):
        # A new head has other weights each time; those of the file count.
        return fingerprint(load_model(self.file, argument) if self.trained == "backbone" else model)

    def layer(self, level):
        """The layer of a level."""
        return getattr(self, f"{level}_layer")

    def describe(self, model):
        """The layers and the shapes of their feature maps in a few words."""
        layers = {level: name for level in LEVELS if (name := self.layer(level)) is not None}
        _, maps = feature_maps(model, list(layers.values()))
        return ", ".join(
            " ".join([*dict.fromkeys([level, name]), "x".join(map(str, output.shape[1:]))])
            for (level, name), output in zip(layers.items(), maps, strict=True)
        )


def _with_stable_names(model):
    """A copy whose layers have the same names however many layers were made before.

    Keras numbers the layers without a name over all models of a process (`activation_17`). Settings
    name layers, so they have to be the same when a network is built again.
    """
    numbered = {layer.name: _class_prefix(layer) for layer in model.layers}
    numbered = {
        name: prefix
        for name, prefix in numbered.items()
        if re.fullmatch(rf"{re.escape(prefix)}(_\d+)?", name)
    }
    if not numbered:
        return model
    taken = {layer.name for layer in model.layers} - set(numbered)
    names = {}
    for name, prefix in numbered.items():
        candidates = (f"{prefix}_{number}" if number else prefix for number in itertools.count())
        names[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(names[name])

    def clone(layer):
        if names.get(layer.name, layer.name) == layer.name:
            return layer  # not all layers of other packages can be made again
        return copy_of(layer, name=names[layer.name])

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    finalize_normalization(copy)
    return copy


def _class_prefix(layer):
    """What Keras names layers of a class by: `re_lu` of `ReLU`."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _fits(model, data):
    """Whether a model is a classifier of the images and classes of a data set, as it is."""
    takes_images = shapes_agree(model.input_shape[1:], data.image_shape)
    return takes_images and model.output_shape == (None, data.num_classes)


def _from_zoo(name, data):
    """A network of the zoo as `open_network` opens it, but also for images that are not square."""
    model = _with_stable_names(
        models.build(name, num_classes=data.num_classes, input_shape=data.image_shape)
    )
    given = tuple(data.mean), tuple(data.std)
    scaling = scaling_layer(given, pixels_of_zoo(given))
    return model if scaling is None else _rebuild(model, data.image_shape, scaling)


def _rebuild(model, image_shape, preprocessing=lambda images: images):
    inputs = keras.Input(image_shape, name="image")
    return flatten(keras.Model(inputs, model(preprocessing(inputs)), name=model.name))


def grid(model, layer, argument="layer"):
    """Height and width of the feature map of a layer, or of the patches of its tokens.

    Args:
        model: Functional `keras.Model`.
        layer: Name of the layer.
        argument: Name of the argument in errors.

    Returns:
        `(height, width)`.

    Raises:
        ValueError: If the layer has neither.
    """
    _, (output,) = feature_maps(model, [layer], argument)
    if len(output.shape) != 4:
        raise ValueError(
            f"`{argument}` must name a layer with a feature map [B, H, W, C] or tokens [B, N, C]. "
            f"Received: {layer!r} of {model.name!r}, whose output is {tuple(output.shape)}"
        )
    return spatial_shape(output.shape)


def pool_size(teacher, teacher_layer, student, student_layer, level):
    """Window of the average pooling that turns the teacher's grid into the student's.

    Where the student's grid does not divide the teacher's, the window is 1 and `LetKD` averages the
    finer of the two, scores or targets, to the grid of the other
    (`letkd_keras.layers.adaptive_average_pool`).

    Args:
        teacher: Teacher.
        teacher_layer: Name of its layer.
        student: Student.
        student_layer: Name of its layer.
        level: `"penultimate"` or `"intermediate"`.

    Returns:
        An integer of at least 1.

    Raises:
        ValueError: If a layer has no feature map, or the student's has tokens.
    """
    _, (output,) = outputs_at(student, [student_layer], f"{level}_layer")
    check_takes_kd_layer(output.shape, student_layer, f"student_{level}_layer")
    teacher_grid = grid(teacher, teacher_layer, f"teacher_{level}_layer")
    return grid_ratio(teacher_grid, grid(student, student_layer, f"{level}_layer")) or 1
