"""Where encoded images are read from: files, or the records of tensorflow-datasets."""

import hashlib
import os
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from letkd_keras.data.selection import held_out, stratified

# Encoded images in the buffer that records are shuffled in: about 450 MB of ImageNet.
_SHUFFLE_BUFFER = 4096
# Files of records that are read in turns.
_INTERLEAVED = 16


def decode(encoded):
    """JPEG, PNG, BMP or the first frame of a GIF as RGB, uint8 [H, W, 3].

    Grayscale becomes three equal channels, CMYK is converted, transparency is dropped.
    """
    import tensorflow as tf

    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


@dataclass(frozen=True)
class FileSource:
    """Images in files of their own.

    Attributes:
        files: `letkd_keras.data.class_folders.ImageFiles`.
    """

    files: object

    def __len__(self):
        return len(self.files)

    def subset(self, examples, seed, argument):
        """So many images, the classes in the same proportion.

        Raises:
            ValueError: If the number is less than one for each class, or more than there are.
        """
        return FileSource(
            self.files.select(stratified(self.files.labels, examples, seed, argument))
        )

    def hold_out(self, fraction, seed):
        """Split the images in two, the classes in the same proportion.

        Returns:
            `(held_out, rest)`, two sources.

        Raises:
            ValueError: If the fraction is out of range.
        """
        parts = held_out(self.files.labels, fraction, seed)
        return tuple(FileSource(self.files.select(part)) for part in parts)

    def between(self, first, last):
        """The images from number `first` to before `last`, in the order of `in_order`."""
        return FileSource(self.files.select(slice(first, last)))

    def first_classes(self, classes):
        """The images of the first classes."""
        return FileSource(self.files.first_classes(classes))

    def digest(self):
        """SHA-256 of the names, sizes and labels of the files."""
        return self.files.digest()

    def in_order(self):
        """`tf.data.Dataset` of (encoded image, label), class by class."""
        import tensorflow as tf

        return self._read(tf.data.Dataset.range(len(self)))

    def shuffled(self, seed, epoch, keep=None):
        """The same in an order that depends only on the seed and the epoch (a tensor).

        Args:
            seed: Seed of the order.
            epoch: Epoch, an integer tensor.
            keep: Function from the position of an image in this order to whether it is read;
                `None` to read all.

        Returns:
            `tf.data.Dataset` of (encoded image, label).
        """
        import tensorflow as tf

        last = np.int64(len(self) - 1)
        key = tf.cast(tf.stack([tf.constant(seed, "int64"), epoch]), "int32")
        positions = tf.data.Dataset.range(len(self))
        if keep is not None:
            positions = positions.filter(keep)
        return self._read(
            positions.map(lambda n: tf.random.experimental.index_shuffle(n, key, last))
        )

    def unreadable(self):
        """Files that TensorFlow cannot decode; reads all of them once.

        Returns:
            List of paths.
        """
        import tensorflow as tf

        def check(index, image):
            return index, tf.shape(decode(image[0]))

        checked = self.in_order().enumerate().map(check, tf.data.AUTOTUNE, deterministic=True)
        readable = {int(index) for index, _ in checked.ignore_errors()}
        return [self.files.files[index] for index in range(len(self)) if index not in readable]

    def _read(self, indices):
        import tensorflow as tf

        paths = tf.constant([os.fsencode(file) for file in self.files.files])
        labels = tf.constant(self.files.labels)
        return indices.map(
            lambda index: (tf.io.read_file(paths[index]), labels[index]),
            tf.data.AUTOTUNE,
            deterministic=True,
        )


@dataclass(frozen=True)
class RecordSource:
    """Images of a data set that tensorflow-datasets has prepared, read record by record.

    Attributes:
        paths: Files of records.
        parse: Function from a record to (encoded image, label).
        lengths: Number of records of each file.
        take: How many records, the first ones, are used; `None` for all.
        share: `Fraction` of the records that are held out, or `None`.
        phase: Which records are held out: those at which `(position + phase) * share` reaches the
            next whole number.
        complement: Whether this source has the other records.
        window: `(first, last)` for the records from number `first` to before `last` of all these;
            `None` for all.
    """

    paths: tuple
    parse: object = field(repr=False)
    lengths: tuple
    take: int | None = None
    share: Fraction | None = None
    phase: int = 0
    complement: bool = False
    window: tuple | None = None

    @classmethod
    def from_builder(cls, builder, split):
        """The source of a split of a `tfds` builder with the features `image` and `label`."""
        import tensorflow_datasets as tfds

        features = builder.info.features

        def parse(record):
            example = features.deserialize_example(
                record, decoders={"image": tfds.decode.SkipDecoding()}
            )
            return example["image"], example["label"]

        info = builder.info.splits[split]
        return cls(tuple(map(str, info.filepaths)), parse, tuple(info.shard_lengths))

    def __len__(self):
        if self.window is not None:
            return self.window[1] - self.window[0]
        # Of a subset the files are read as one.
        lengths = self.lengths if self.take is None else (self.take,)
        return sum(self._selected(length) for length in lengths)

    def subset(self, examples, seed, argument):
        """The first images in the order of preparation, which tensorflow-datasets has shuffled.

        Raises:
            ValueError: If the number is out of range.
        """
        if examples is None:
            return self
        if not 1 <= examples <= len(self):
            raise ValueError(
                f"`{argument}` must be between 1 and {len(self)}. Received: {argument}={examples}"
            )
        if self.share is not None or self.window is not None:
            # Of fewer records, others would be held out.
            return self.between(0, examples)
        return replace(self, take=examples)

    def hold_out(self, fraction, seed):
        """Split the records in two at regular distances, about `fraction` of them and the rest.

        Classes are in about the same proportion, since tensorflow-datasets has shuffled the
        records.

        Returns:
            `(held_out, rest)`, two sources.

        Raises:
            ValueError: If the fraction is out of range, or images were held out before.
        """
        if self.share is not None:
            raise ValueError("Images can be held out only once")
        share = Fraction(fraction).limit_denominator(1000) if np.isfinite(fraction) else 0
        chosen = replace(self, share=share, phase=int(seed) % 1000)
        rest = replace(chosen, complement=True)
        if not 0 < share < 1 or not (len(chosen) and len(rest)):
            raise ValueError(
                "`fraction` must be greater than 0 and less than 1, with at least one image on "
                f"either side. Received: fraction={fraction} of {len(self)} images"
            )
        return chosen, rest

    def first_classes(self, classes):
        """Refused: the labels are known only once all records have been read.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"`classes` does not apply to records of tensorflow-datasets. "
            f"Received: classes={classes}"
        )

    def digest(self):
        """SHA-256 of the names, sizes and lengths of the files of records."""
        selection = f"{self.take} {self.share} {self.phase} {self.complement}"
        window = "" if self.window is None else f" {self.window}"
        digest = hashlib.sha256(f"{selection}{window}\n".encode())
        for path, length in zip(self.paths, self.lengths, strict=True):
            size = Path(path).stat().st_size
            digest.update(f"{Path(path).name}\0{size}\0{length}\n".encode())
        return digest.hexdigest()

    def unreadable(self):
        """No files: tensorflow-datasets has decoded each record when it prepared them."""
        return []

    def in_order(self):
        """`tf.data.Dataset` of (encoded image, label), file by file."""
        import tensorflow as tf

        return self._records_in_order().map(self.parse, tf.data.AUTOTUNE, deterministic=True)

    def between(self, first, last):
        """The images from number `first` to before `last`, in the order of `in_order`.

        Files before the first one are not read, unless this is a subset or a part of a split.
        """
        paths, lengths = self.paths, self.lengths
        if self.window is not None:
            first, last = self.window[0] + first, self.window[0] + last
        elif self.take is None and self.share is None:
            while lengths[0] <= first:
                first, last = first - lengths[0], last - lengths[0]
                paths, lengths = paths[1:], lengths[1:]
        return replace(self, paths=paths, lengths=lengths, window=(first, last))

    def shuffled(self, seed, epoch, keep=None):
        """The same in an order that depends only on the seed and the epoch (a tensor).

        Files in random order, sixteen read in turns, and a buffer of encoded images: the usual
        approximation of a shuffle. A subset is shuffled by the buffer only.

        Args:
            seed: Seed of the order.
            epoch: Epoch, an integer tensor.
            keep: Function from the position of an image in this order to whether it is kept; all
                are read. `None` to keep all.

        Returns:
            `tf.data.Dataset` of (encoded image, label).
        """
        import tensorflow as tf

        if self.take is None and self.window is None:
            paths, last = tf.constant(self.paths), np.int64(len(self.paths) - 1)
            key = tf.cast(tf.stack([tf.constant(seed, "int64"), epoch]), "int32")
            order = tf.random.experimental.index_shuffle(tf.range(last + 1), key, last)
            records = tf.data.Dataset.from_tensor_slices(tf.gather(paths, order)).interleave(
                self._records,
                cycle_length=min(_INTERLEAVED, len(self.paths)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        else:
            records = self._records_in_order()
        if not tf.executing_eagerly():
            # Only for the function that is being traced. TensorFlow would combine the global seed
            # with this one, and cannot compare a global seed of 0 with a tensor.
            tf.random.set_seed(1)
        drawn = tf.random.stateless_uniform(
            (), tf.stack([tf.constant(seed, "int64"), epoch]), 0, 2**62, "int64"
        )
        records = records.shuffle(
            min(_SHUFFLE_BUFFER, len(self)), seed=drawn, reshuffle_each_iteration=False
        )
        if keep is not None:
            kept = records.enumerate().filter(lambda position, _: keep(position))
            records = kept.map(lambda _, record: record)
        return records.map(self.parse, tf.data.AUTOTUNE, deterministic=True)

    def _records_in_order(self):
        import tensorflow as tf

        if self.take is None:
            records = tf.data.Dataset.from_tensor_slices(list(self.paths)).flat_map(self._records)
        else:
            records = self._select(tf.data.TFRecordDataset(list(self.paths)).take(self.take))
        if self.window is not None:
            records = records.skip(self.window[0]).take(len(self))
        return records

    def _records(self, path):
        import tensorflow as tf

        return self._select(tf.data.TFRecordDataset(path))

    def _select(self, records):
        """The records that are held out, or the others."""
        if self.share is None:
            return records
        numerator, denominator = self.share.numerator, self.share.denominator

        def is_selected(position, _):
            before = (position + self.phase) * numerator // denominator
            after = (position + self.phase + 1) * numerator // denominator
            return (after > before) != self.complement

        return records.enumerate().filter(is_selected).map(lambda _, record: record)

    def _selected(self, length):
        """How many of the first `length` records of a file `_select` keeps."""
        if self.share is None:
            return length
        numerator, denominator = self.share.numerator, self.share.denominator
        before = self.phase * numerator // denominator
        chosen = (self.phase + length) * numerator // denominator - before
        return length - chosen if self.complement else chosen
