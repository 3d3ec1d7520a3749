import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from letkd_keras.errors import argument_renamed
from letkd_keras.files import open_atomic
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.functional.layer_position import layer_at
from letkd_keras.functional.softmax_removal import remove_softmax
from letkd_keras.levels import LEVELS
from letkd_keras.prototypes.teacher_features import TeacherFeatures, at_size

_FORMAT = "letkd_keras.prototypes"
_FORMAT_VERSION = 2


@dataclass(frozen=True, eq=False, repr=False)
class PenultimatePrototypes:
    """Clusters of a teacher's penultimate features (method, "Penultimate supervision").

    Args:
        layer: Name of the teacher's layer when the prototypes were fitted.
        grid: `(height, width)` of the features after pooling.
        pool_size: Window and stride of the average pooling of the teacher's features.
        centers: Cluster centers, float32 [K, C].
        position: Where the layer is in the teacher, whatever it is called now
            (`letkd_keras.functional.layer_position`). `None`, in prototypes put together by hand,
            means that the layer is found by its name.
    """

    layer: str
    grid: tuple[int, int]
    pool_size: int
    centers: np.ndarray
    position: str | None = None

    @property
    def channels(self):
        """Number of the teacher's channels C."""
        return self.centers.shape[1]

    @property
    def templates(self):
        """Number of templates K."""
        return self.centers.shape[0]

    def __repr__(self):
        return _short(self)


@dataclass(frozen=True, eq=False, repr=False)
class IntermediatePrototypes:
    """Sub-classes by the teacher's decisions (method, "Intermediate supervision").

    Args:
        layer: Name of the teacher's layer when the prototypes were fitted.
        grid: `(height, width)` of the features after pooling.
        pool_size: Window and stride of the average pooling of the teacher's features.
        lda_mean: float32 [C].
        lda_scalings: float32 [C, d]; features go to `(f - lda_mean) @ lda_scalings`.
        centers: Sub-class centers there, float32 [num_classes * subclasses, d], class by class.
        subclass_scores: float32 [K, K]; row s is what the teacher confuses sub-class s with.
        num_classes: Number of classes.
        subclasses: Sub-classes of each class.
        position: Where the layer is in the teacher, whatever it is called now
            (`letkd_keras.functional.layer_position`). `None`, in prototypes put together by hand,
            means that the layer is found by its name.

    Raises:
        ValueError: If the shapes of the arrays do not agree.
    """

    layer: str
    grid: tuple[int, int]
    pool_size: int
    lda_mean: np.ndarray
    lda_scalings: np.ndarray
    centers: np.ndarray
    subclass_scores: np.ndarray
    num_classes: int
    subclasses: int
    position: str | None = None

    def __post_init__(self):
        templates = self.num_classes * self.subclasses
        channels, components = np.shape(self.lda_mean), np.shape(self.centers)[-1:]
        for name, shape, meaning in (
            ("lda_scalings", (*channels, *components), "[C, d]"),
            ("centers", (templates, *components), "[num_classes * subclasses, d]"),
            ("subclass_scores", (templates, templates), "[K, K]"),
        ):
            received = np.shape(getattr(self, name))
            if received != shape or len(shape) != 2:
                raise ValueError(
                    f"`{name}` must be of the shape {meaning}, here {shape}. "
                    f"Received: {name} of the shape {received}"
                )

    @property
    def channels(self):
        """Number of the teacher's channels C."""
        return self.lda_scalings.shape[0]

    @property
    def templates(self):
        """Number of templates K."""
        return self.centers.shape[0]

    def project(self, features):
        """Teacher features [N, C] in the space of the centers, float32 [N, d]."""
        return (features - self.lda_mean) @ self.lda_scalings

    def __repr__(self):
        return _short(self)


@dataclass(frozen=True, eq=False, repr=False)
class Prototypes:
    """Prototypes of a teacher: clusters of its features, fitted once and used for any student.

    Args:
        penultimate: `PenultimatePrototypes`, the clusters of the last feature map.
        intermediate: `IntermediatePrototypes`, the sub-classes at the start of the last stage, or
            `None` (letKD-1).
        manifest: Where they come from: teacher and its fingerprint, data, seed, versions. JSON
            types only. `save` adds a checksum of each array.
    """

    penultimate: PenultimatePrototypes
    intermediate: IntermediatePrototypes | None = None
    manifest: dict = field(default_factory=dict)

    @property
    def levels(self):
        """The levels they supervise, `("penultimate",)` or `("penultimate", "intermediate")`."""
        return tuple(level for level in LEVELS if getattr(self, level) is not None)

    def __repr__(self):
        levels = ", ".join(f"{level}={getattr(self, level)!r}" for level in self.levels)
        return f"Prototypes({levels})"

    def save(self, path):
        """Write everything to one `.npz` file, whole or not at all.

        Args:
            path: File to write; an existing one is replaced.
        """
        arrays, levels = {}, {}
        for level in self.levels:
            levels[level] = {}
            for name, value in vars(getattr(self, level)).items():
                if isinstance(value, np.ndarray):
                    arrays[f"{level}/{name}"] = np.ascontiguousarray(value)
                else:
                    levels[level][name] = value
        manifest = {
            **self.manifest,
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "levels": levels,
            "arrays": {name: _describe(array) for name, array in arrays.items()},
        }
        text = np.frombuffer(json.dumps(manifest, sort_keys=True).encode(), dtype="uint8")
        with open_atomic(path) as file:
            np.savez(file, manifest=text, **arrays)

    @classmethod
    def load(cls, path):
        """Read prototypes and verify every checksum.

        Args:
            path: File written by `save`.

        Returns:
            `Prototypes` equal to those saved.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is truncated, damaged, of another kind or version, or has values
                that are not finite.
        """
        manifest, arrays = _read(path)
        kinds = {"penultimate": PenultimatePrototypes, "intermediate": IntermediatePrototypes}
        try:
            for name, described in manifest["arrays"].items():
                _check_array(path, name, arrays.get(name), described)
            parts = {}
            for level, values in manifest.pop("levels").items():
                prefix = f"{level}/"
                own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
                parts[level] = kinds[level](**{**values, "grid": tuple(values["grid"])}, **own)
            return cls(**parts, manifest=manifest)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a whole prototypes file: its manifest is incomplete ({error!r})."
            ) from error

    def check_teacher(self, teacher):
        """Check that these prototypes belong to a teacher, and find their layers in it.

        The layers may have other names than when the prototypes were fitted: Keras numbers layers
        differently when a teacher is built again. Prototypes put together by hand, whose manifest
        names no teacher, are checked for their layers only.

        Args:
            teacher: A functional `keras.Model`; it may end in logits or in a softmax.

        Returns:
            Dictionary of the names of the layers in this teacher, by level.

        Raises:
            ValueError: If the teacher's weights are others, or a layer is missing or has another
                grid or number of channels.
        """
        teacher = remove_softmax(teacher, "teacher")
        expected = self.manifest.get("teacher", {}).get("fingerprint")
        if expected is not None:
            received = fingerprint(teacher)
            if received != expected:
                name = self.manifest["teacher"].get("name")
                raise ValueError(
                    "These prototypes belong to another teacher, or to the same one before its "
                    f"weights changed: expected {name!r} with fingerprint {expected[:12]}. "
                    f"Received: {teacher.name!r} with fingerprint {received[:12]}"
                )
        shape = self.manifest.get("image_shape")
        return {
            level: _find_layer(teacher, level, getattr(self, level), shape) for level in self.levels
        }


def _short(part):
    """One line about a level's prototypes, without their arrays."""
    height, width = part.grid
    pooled = f", pool_size={part.pool_size}" if part.pool_size > 1 else ""
    return (
        f"{type(part).__name__}({part.templates} templates of {part.layer!r}, "
        f"{height}x{width}x{part.channels}{pooled})"
    )


def _find_layer(teacher, level, part, image_shape):
    """The name of a level's layer in a teacher, if it is as in the prototypes."""
    name = part.layer
    if part.position is not None:
        name = layer_at(at_size(teacher, image_shape), part.position)
    if name is None:
        raise ValueError(
            "These prototypes belong to another teacher, or to the same one before its layers "
            f"changed: expected the {level} layer {part.layer!r} at {part.position!r}. "
            f"Received: {teacher.name!r}, which has no layer there"
        )
    with argument_renamed(f"{level}_layer", f"prototypes.{level}.layer"):
        features = TeacherFeatures(teacher, {level: name}, part.pool_size, image_shape)
    grid, channels = features.grids[level], features.channels[level]
    if grid != tuple(part.grid) or channels != part.channels:
        raise ValueError(
            f"These {level} prototypes are of a grid of {part.grid[0]} x {part.grid[1]} with "
            f"{part.channels} channels (pool_size={part.pool_size}). Received: a teacher "
            f"{teacher.name!r} whose {name!r} gives {grid[0]} x {grid[1]} with {channels} "
            "channels"
        )
    classes = getattr(part, "num_classes", features.num_classes)
    if classes != features.num_classes:
        raise ValueError(
            f"These {level} prototypes are of {classes} classes. "
            f"Received: a teacher {teacher.name!r} of {features.num_classes}"
        )
    return name


def _check_array(path, name, array, described):
    if array is None or _describe(array) != described:
        raise ValueError(
            f"{path} is damaged: its array {name!r} does not match its checksum. "
            "Fit the prototypes again."
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{path} cannot be used: its array {name!r} has NaN or infinite values. "
            "Fit the prototypes again."
        )


def _describe(array):
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
    }


def _read(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"No prototypes at {path}")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip file")
        with np.load(path, allow_pickle=False) as file:
            # `save` does not compress: a file that declares more bytes than it has is refused
            # before they are allocated.
            declared = sum(member.file_size for member in file.zip.infolist())
            if declared > Path(path).stat().st_size:
                raise ValueError(f"it declares {declared:,} bytes")
            arrays = {name: file[name] for name in file.files}
        manifest = json.loads(arrays.pop("manifest").tobytes())
    except (
        zipfile.BadZipFile,
        EOFError,
        OSError,
        KeyError,
        ValueError,
        AttributeError,
        RuntimeError,  # an encrypted file, or a kind of compression that zipfile lacks
        MemoryError,
    ) as error:
        raise ValueError(
            f"{path} is not a whole prototypes file: it is truncated, damaged or of another kind "
            f"({error})."
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ValueError(f"{path} is a file of another kind, not prototypes.")
    version = manifest.get("format_version")
    if version != _FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this program reads version {_FORMAT_VERSION}."
        )
    return manifest, arrays
