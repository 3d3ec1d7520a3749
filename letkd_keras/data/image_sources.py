"""Where encoded images are read from: files, or the records of tensorflow-datasets."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from letkd_keras.data.selection import held_out, stratified
from letkd_keras.data.shuffled_order import shuffled

# Encoded images in the buffer that records are shuffled in: about 450 MB of ImageNet.
_SHUFFLE_BUFFER = 4096
# Files of records that are read in turns.
_INTERLEAVED = 16


def decode(encoded):
    """JPEG, PNG, BMP or the first frame of a GIF as RGB, uint8 [H, W, 3].

    Grayscale becomes three equal channels, CMYK is converted, transparency is dropped. The EXIF
    orientation is ignored, as in torchvision: TensorFlow cannot read it.
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

        count = len(self)
        positions = tf.data.Dataset.range(count)
        if keep is not None:
            positions = positions.filter(keep)
        return self._read(positions.map(lambda n: shuffled(n, seed, epoch, count)))

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

        # Not `os.fsencode`, which TensorFlow tries to translate where it traces this, and warns.
        paths = tf.constant([bytes(Path(file)) for file in self.files.files])
        labels = tf.constant(self.files.labels)
        return indices.map(
            lambda index: (tf.io.read_file(paths[index]), labels[index]),
            tf.data.AUTOTUNE,
            deterministic=True,
        )


@dataclass(frozen=True, eq=False)
class RecordSource:
    """Images of a data set that tensorflow-datasets has prepared, read record by record.

    Attributes:
        paths: Files of records.
        parse: Function from a record to (encoded image, label).
        lengths: Number of records of each file.
        chosen: Numbers of the records that are used, ascending, counted through all files.
    """

    paths: tuple
    parse: object = field(repr=False)
    lengths: tuple
    chosen: np.ndarray = field(repr=False)

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
        lengths = tuple(info.shard_lengths)
        return cls(tuple(map(str, info.filepaths)), parse, lengths, np.arange(sum(lengths)))

    def __len__(self):
        return len(self.chosen)

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
        return self.between(0, examples)

    def hold_out(self, fraction, seed):
        """Split the records in two at random: their classes are not known before they are read.

        Returns:
            `(held_out, rest)`, two sources.

        Raises:
            ValueError: If the fraction is out of range.
        """
        parts = held_out(np.zeros(len(self), "int64"), fraction, seed)
        return tuple(replace(self, chosen=self.chosen[part]) for part in parts)

    def between(self, first, last):
        """The images from number `first` to before `last`, in the order of `in_order`."""
        return replace(self, chosen=self.chosen[first:last])

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
        """SHA-256 of the records chosen, and of the names, sizes and lengths of the files."""
        digest = hashlib.sha256(np.ascontiguousarray(self.chosen, "<i8"))
        for path, length in zip(self.paths, self.lengths, strict=True):
            size = Path(path).stat().st_size
            digest.update(f"{Path(path).name}\0{size}\0{length}\n".encode())
        return digest.hexdigest()

    def unreadable(self):
        """Files of records that are damaged or missing.

        The images in the records are not decoded: tensorflow-datasets did that when it prepared
        them.
        """
        import tensorflow as tf

        damaged = []
        for path, length in zip(self.paths, self.lengths, strict=True):
            try:
                records = sum(1 for _ in tf.data.TFRecordDataset(path))
            except tf.errors.OpError:
                records = None
            if records != length:
                damaged.append(path)
        return damaged

    def in_order(self):
        """`tf.data.Dataset` of (encoded image, label), file by file."""
        import tensorflow as tf

        records = tf.data.Dataset.from_tensor_slices(self._files()).flat_map(self._records)
        return records.map(self.parse, tf.data.AUTOTUNE, deterministic=True)

    def shuffled(self, seed, epoch, keep=None):
        """The same in an order that depends only on the seed and the epoch (a tensor).

        Files in random order, sixteen read in turns, and a buffer of encoded images: the usual
        approximation of a shuffle.

        Args:
            seed: Seed of the order.
            epoch: Epoch, an integer tensor.
            keep: Function from the position of an image in this order to whether it is kept; all
                are read. `None` to keep all.

        Returns:
            `tf.data.Dataset` of (encoded image, label).
        """
        import tensorflow as tf

        files = self._files()
        count = len(files[0])
        order = shuffled(tf.range(count, dtype="int64"), seed, epoch, count)
        files = tuple(tf.gather(each, order) for each in files)
        records = tf.data.Dataset.from_tensor_slices(files).interleave(
            self._records,
            cycle_length=_INTERLEAVED,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if not tf.executing_eagerly():
            # Only for the function that is being traced. TensorFlow would combine the global seed
            # with this one, and cannot compare a global seed of 0 with a tensor.
            tf.random.set_seed(1)
        drawn = tf.random.stateless_uniform(
            (), tf.stack([tf.constant(seed, "int64"), epoch]), 0, 2**62, "int64"
        )
        records = records.shuffle(_SHUFFLE_BUFFER, seed=drawn, reshuffle_each_iteration=False)
        if keep is not None:
            kept = records.enumerate().filter(lambda position, _: keep(position))
            records = kept.map(lambda _, record: record)
        return records.map(self.parse, tf.data.AUTOTUNE, deterministic=True)

    def _files(self):
        """Of each file with chosen records: its path, records to skip, first number and count."""
        starts = np.cumsum((0, *self.lengths[:-1]))
        file_of = np.searchsorted(starts, self.chosen, side="right") - 1
        used, at, counts = np.unique(file_of, return_index=True, return_counts=True)
        first = self.chosen[at]
        return np.array(self.paths)[used], first - starts[used], first, counts

    def _records(self, path, skipped, first, count):
        """The chosen records of a file; the arguments are a row of `_files`."""
        import tensorflow as tf

        records = tf.data.TFRecordDataset(path).skip(skipped)
        if (np.diff(self.chosen) == 1).all():
            return records.take(count)
        is_chosen = np.zeros(sum(self.lengths), bool)
        is_chosen[self.chosen] = True
        is_chosen = tf.constant(is_chosen)
        chosen = records.enumerate(first).filter(lambda number, _: is_chosen[number])
        return chosen.map(lambda _, record: record).take(count)
