import hashlib
import json
import zipfile
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path

import numpy as np

from letkd_keras.files import open_atomic
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.prototypes.teacher_features import TeacherFeatures

_FORMAT = "letkd_keras.prototypes"
_FORMAT_VERSION = 1
_LEVELS = ("penultimate", "intermediate")


@dataclass(frozen=True, eq=False)
class PenultimatePrototypes:
    """Clusters of a teacher's penultimate features (method, "Penultimate supervision").

    Args:
        layer: Name of the teacher's layer.
        grid: `(height, width)` of the features after pooling.
        pool_size: Window and stride of the average pooling of the teacher's features.
        centers: float32 [K, C].
    """

    layer: str
    grid: tuple[int, int]
    pool_size: int
    centers: np.ndarray

    @property
    def channels(self):
        return self.centers.shape[1]

    @property
    def templates(self):
        return self.centers.shape[0]


@dataclass(frozen=True, eq=False)
class IntermediatePrototypes:
    """Sub-classes by the teacher's decisions (method, "Intermediate supervision").

    Args:
        layer: Name of the teacher's layer.
        grid: `(height, width)` of the features after pooling.
        pool_size: Window and stride of the average pooling of the teacher's features.
        lda_mean: float32 [C].
        lda_scalings: float32 [C, d]; features go to `(f - lda_mean) @ lda_scalings`.
        centers: Sub-class centres there, float32 [num_classes * subclasses, d], class by class.
        subclass_scores: float32 [K, K]; row s is what the teacher confuses sub-class s with.
        num_classes: Number of classes.
        subclasses: Sub-classes of each class.
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

    @property
    def channels(self):
        return self.lda_scalings.shape[0]

    @property
    def templates(self):
        return self.centers.shape[0]

    def project(self, features):
        """Teacher features [N, C] in the space of the centres, float32 [N, d]."""
        return (features - self.lda_mean) @ self.lda_scalings


@dataclass(frozen=True, eq=False)
class Prototypes:
    """What a teacher's features look like: made once offline, used to supervise any student.

    Args:
        penultimate: Clusters of the last feature map.
        intermediate: Sub-classes at the start of the last stage, or `None` (letKD-1).
        manifest: Where they come from: teacher and its fingerprint, data, seed, versions. JSON
            types only. `save` adds a checksum of each array.
    """

    penultimate: PenultimatePrototypes
    intermediate: IntermediatePrototypes | None = None
    manifest: dict = field(default_factory=dict)

    @property
    def levels(self):
        """The levels they supervise."""
        return tuple(level for level in _LEVELS if getattr(self, level) is not None)

    def save(self, path):
        """Write everything to one `.npz` file, aside first, then renamed.

        Args:
            path: File to write; an existing one is replaced.
        """
        arrays, levels = {}, {}
        for level in _LEVELS:
            part = getattr(self, level)
            if part is None:
                continue
            levels[level] = {}
            for name in (f.name for f in fields(part)):
                value = getattr(part, name)
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
            ValueError: If the file is truncated or damaged, or not one of ours.
        """
        manifest, arrays = _read(path)
        for name, described in manifest["arrays"].items():
            if name not in arrays or _describe(arrays[name]) != described:
                raise ValueError(
                    f"{path} is damaged: its array {name!r} does not match its checksum. "
                    "Fit the prototypes again."
                )
        kinds = {"penultimate": PenultimatePrototypes, "intermediate": IntermediatePrototypes}
        parts = {}
        for level, values in manifest.pop("levels").items():
            prefix = f"{level}/"
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            parts[level] = kinds[level](**{**values, "grid": tuple(values["grid"])}, **own)
        return cls(**parts, manifest=manifest)

    def check_teacher(self, teacher):
        """Refuse a teacher these prototypes do not belong to.

        Prototypes put together by hand, whose manifest names no teacher, are checked for their
        taps only.

        Args:
            teacher: A functional `keras.Model`.

        Raises:
            ValueError: If the teacher's weights are others, or a tap is missing or has another
                grid or number of channels.
        """
        for level in _LEVELS:
            part = getattr(self, level)
            if part is not None:
                _check_tap(teacher, level, part)
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


def versions():
    """Installed versions of what makes prototypes, for the manifest."""
    packages = ("letkd-keras", "keras", "tensorflow", "numpy", "faiss-cpu")
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _check_tap(teacher, level, part):
    features = TeacherFeatures(teacher, [part.layer], part.pool_size)
    grid, channels = features.grids[0], features.channels[0]
    if grid != tuple(part.grid) or channels != part.channels:
        raise ValueError(
            f"These {level} prototypes are of a grid of {part.grid[0]} x {part.grid[1]} with "
            f"{part.channels} channels (pool_size={part.pool_size}). Received: a teacher "
            f"{teacher.name!r} whose {part.layer!r} gives {grid[0]} x {grid[1]} with {channels} channels"
        )
    classes = getattr(part, "num_classes", features.num_classes)
    if classes != features.num_classes:
        raise ValueError(
            f"These {level} prototypes are of {classes} classes. "
            f"Received: a teacher {teacher.name!r} of {features.num_classes}"
        )


def _describe(array):
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
    }


def _read(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"No prototypes at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        manifest = json.loads(arrays.pop("manifest").tobytes())
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a whole prototypes file: it is truncated, damaged or of another kind "
            f"({error})."
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        raise ValueError(f"{path} is a file of another kind, not prototypes.")
    if manifest["format_version"] != _FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format version {manifest['format_version']}; this program reads version "
            f"{_FORMAT_VERSION}."
        )
    return manifest, arrays
