"""`recipes.compare` with the teacher's outputs read from a table, for many trainings on a CPU.

    python benchmarks/teacher_table.py TABLE --data cifar100 --classes 20 --pair resnet20-resnet8 \
--teacher teacher.keras --methods kd letkd2

With crops and flips and nothing else, a training sees few versions of an image: 162 where 4 pixels
are padded. This command runs the teacher once on all versions of all training images (10,000 images
of CIFAR and a resnet20: 10 GB and 20 minutes of one core) and keeps its logits and the features of
its intermediate layer in the folder TABLE. The trainings of `recipes.compare`, whose options follow
TABLE, then read them. Layers after the intermediate one are computed as always; a method that reads
an earlier layer cannot be trained in this way. The results are those of the plain command up to
rounding: each step supervises the same images with the same outputs. The same command continues an
interrupted run.

An image of a batch is found in the table by a hash of its pixels. An image that is not in the table
is an error.

Features are kept without their zeros, which a ReLU makes. The rows of a batch lie all over the
table, so a training reads the whole table into memory. Where it does not fit into half of the
memory it is read from disk in each step, which takes several times as long.
"""

import argparse
import hashlib
import math
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from letkd_keras import memory_mapped
from letkd_keras.commands.command_line import run_main
from letkd_keras.data.normalization import scale_and_shift
from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.layer_outputs import LayerOutputs
from letkd_keras.files import read_json, write_json
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.functional.loading import load_model
from letkd_keras.recipes import compare
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.recipe_of_data import settings_of

BATCH_SIZE = 250


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="folder of the table")
    options, rest = parser.parse_known_args(arguments)
    compare_options = compare.parse(rest)
    experiment = experiment_of(compare_options, settings_of(compare_options))
    if experiment.augmentation.keys() != {"crop_padding", "flip"}:
        parser.error(
            "the augmentation must be crops and flips alone, as in the recipe of CIFAR-100. "
            f"Received: {experiment.augmentation}"
        )
    if experiment.teacher.file is None:
        parser.error("--teacher must be the file of a trained teacher")
    table = Table.open(options.table, experiment)
    Distiller._set_teacher = lambda distiller, teacher: table.set_teacher(distiller, teacher)
    compare.main(rest)


class Table:
    """A teacher's outputs of all versions of the training images.

    Args:
        folder: Folder with the files that `_make` writes.
        data: `ImageData`.
        layer: Teacher's layer whose outputs are `features.npy`.
    """

    def __init__(self, folder, data, layer):
        self.layer = layer
        self._pixels = _Pixels(data)
        self._logits = np.load(folder / "logits.npy")
        self._features = _Features(folder)
        # An image that occurs twice has the same outputs.
        keys, rows = np.unique(np.load(folder / "keys.npy"), return_index=True)
        self._rows = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, rows), default_value=-1
        )

    @classmethod
    def open(cls, folder, experiment):
        """The table in a folder, which is made or completed first."""
        teacher, data = load_model(experiment.teacher.file, "teacher"), experiment.data
        layer = experiment.teacher.with_layers(teacher, "teacher", True).layer("intermediate")
        identity = {
            "teacher": fingerprint(teacher),
            # Not the labels, of which a training may have few.
            "images": hashlib.sha256(np.ascontiguousarray(data.x_train)).hexdigest(),
            "mean": np.asarray(data.mean, float).tolist(),
            "std": np.asarray(data.std, float).tolist(),
            "layer": layer,
            "augmentation": experiment.augmentation,
        }
        folder.mkdir(parents=True, exist_ok=True)
        _make(folder, identity, teacher, data, layer)
        return cls(folder, data, layer)

    def set_teacher(self, distiller, teacher):
        """What replaces `Distiller._set_teacher`."""
        layers = distiller.teacher_layers
        graph = LayerOutputs(teacher, layers, "teacher_layers")
        distiller.teacher_graph = _KnownOutputs(self, graph, layers)
        distiller.teacher_shapes = tuple(graph.shapes)

    def rows(self, images):
        """Rows of normalized images."""
        rows = self._rows.lookup(self._pixels.keys(images))
        with tf.control_dependencies([tf.debugging.assert_non_negative(rows, "an unknown image")]):
            return tf.identity(rows)

    def logits(self, rows):
        """Logits of rows."""
        return self._read(self._logits, rows)

    def features(self, rows):
        """Features of rows."""
        return self._read(self._features, rows)

    def _read(self, array, rows):
        values = tf.numpy_function(lambda rows: array[rows], [rows], tf.float32, stateful=False)
        return tf.ensure_shape(values, (None, *array.shape[1:]))


class _Features:
    """Rows of features, whose zeros are not kept.

    `nonzero.npy` has a bit for each number of a row. `values` has the numbers that are not zero, in
    float32. Those of row i are at `starts.npy`[i] to `starts.npy`[i + 1].
    """

    def __init__(self, folder):
        self._starts = np.load(folder / "starts.npy")
        self._shape = tuple(read_json(folder / "table.json")["shape"])
        self.shape = (len(self._starts) - 1, *self._shape)
        files = folder / "nonzero.npy", folder / "values"
        if sum(file.stat().st_size for file in files) > memory_mapped.physical_memory() // 2:
            self._nonzero = np.load(files[0], mmap_mode="r")
            self._values = np.memmap(files[1], "float32", "r")
        else:
            self._nonzero, self._values = np.load(files[0]), np.fromfile(files[1], "float32")

    def __getitem__(self, rows):
        size = math.prod(self._shape)
        nonzero = np.unpackbits(self._nonzero[rows], axis=1, count=size).view(bool)
        features = np.zeros(nonzero.shape, "float32")
        features[nonzero] = np.concatenate(
            [self._values[self._starts[row] : self._starts[row + 1]] for row in rows]
        )
        return features.reshape(-1, *self._shape)


class _KnownOutputs:
    """`LayerOutputs` of a teacher that does not run up to the layer of the table."""

    def __init__(self, table, graph, layers):
        self.model, self.shapes = graph.model, graph.shapes
        self._table, self._layers = table, layers
        known, *later = (
            graph.model.get_layer(name).output
            for name in (table.layer, *(name for name in layers if name != table.layer))
        )
        self._later = keras.Model(known, later) if later else None

    def __call__(self, inputs, training):
        rows = self._table.rows(inputs)
        found = {}
        if self._layers:
            found[self._table.layer] = features = self._table.features(rows)
        if self._later is not None:
            later = keras.tree.flatten(self._later(features, training=False))
            found |= zip((n for n in self._layers if n != self._table.layer), later, strict=True)
        return {
            "logits": self._table.logits(rows),
            "features": [found[name] for name in self._layers],
        }


class _Pixels:
    """From normalized images back to their pixels and a key of 64 bits."""

    def __init__(self, data):
        self._scale, self._shift = scale_and_shift(data.mean, data.std)
        size = math.prod(data.image_shape)
        odd = np.random.default_rng(0).integers(-(2**62), 2**62, size) * 2 + 1
        self._factors = tf.constant(odd, "int64")

    def keys(self, images):
        pixels = tf.cast(tf.round((images - self._shift) / self._scale), "int64")
        return tf.reduce_sum(tf.reshape(pixels, (-1, self._factors.shape[0])) * self._factors, 1)

    def normalized(self, pixels):
        return tf.cast(pixels, "float32") * self._scale + self._shift


def _make(folder, identity, teacher, data, layer):
    state = folder / "table.json"
    images, padding = data.x_train, identity["augmentation"]["crop_padding"]
    offsets = range(2 * padding + 1)
    flips = (False, True) if identity["augmentation"]["flip"] else (False,)
    versions = [(top, left, flip) for top in offsets for left in offsets for flip in flips]
    done = 0
    if state.exists():
        found = read_json(state)
        done = found.pop("done")
        found.pop("shape")
        if found != identity:
            raise ValueError(
                f"`table` must be of this teacher and these images. Received: {folder}"
            )
        if done == len(versions):
            return
    graph = LayerOutputs(teacher, (layer,))
    shape = graph.shapes[0]
    rows = len(versions) * len(images)
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+")
        if done
        else memory_mapped.create(folder / f"{name}.npy", *of)
        for name, of in {
            "logits": ((rows, teacher.outputs[0].shape[-1]), "float32"),
            "keys": ((rows,), "int64"),
            "nonzero": ((rows, math.ceil(math.prod(shape) / 8)), "uint8"),
            "starts": ((rows + 1,), "int64"),
        }.items()
    }
    starts = arrays["starts"]
    pixels = _Pixels(data)
    height, width = data.image_shape[:2]
    padded = np.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)], "reflect")

    @tf.function
    def outputs(batch):
        batch = pixels.normalized(batch)
        found = graph(batch, training=False)
        return {
            "logits": found["logits"],
            "features": found["features"][0],
            "keys": pixels.keys(batch),
        }

    with (folder / "values").open("r+b" if done else "wb") as values:
        # An interrupted run may have written a part of the next version.
        values.truncate(4 * int(starts[done * len(images)]))
        values.seek(0, os.SEEK_END)
        for number in range(done, len(versions)):
            top, left, flip = versions[number]
            version = padded[:, top : top + height, left : left + width]
            version = version[:, :, ::-1] if flip else version
            for start in range(0, len(images), BATCH_SIZE):
                found = outputs(tf.constant(version[start : start + BATCH_SIZE]))
                first = number * len(images) + start
                features = found["features"].numpy()
                features = features.reshape(len(features), -1)
                nonzero = features != 0
                part = slice(first, first + len(features))
                arrays["logits"][part] = found["logits"].numpy()
                arrays["keys"][part] = found["keys"].numpy()
                arrays["nonzero"][part] = np.packbits(nonzero, axis=1)
                starts[first + 1 : part.stop + 1] = starts[first] + np.cumsum(nonzero.sum(axis=1))
                features[nonzero].tofile(values)
            values.flush()
            os.fsync(values.fileno())
            for array in arrays.values():
                array.flush()
            write_json(state, {**identity, "done": number + 1, "shape": shape})
            print(f"version {number + 1} of {len(versions)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)
