"""Where encoded images come from: files, or the records of tensorflow-datasets."""

from dataclasses import dataclass, field, replace

import numpy as np

from letkd_keras.data.stratified import stratified

# Encoded images that records are shuffled among: of ImageNet about 450 MB.
_SHUFFLE_BUFFER = 4096
# Files of records that are read in turns.
_INTERLEAVED = 16


def decode(encoded):
    """JPEG, PNG, BMP or the first frame of a GIF as RGB, uint8 [H, W, 3].

    Grey-scale becomes three equal channels, CMYK is converted, transparency is dropped.
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
            ValueError: If the number is below one per class or above what is there.
        """
        return FileSource(
            self.files.select(stratified(self.files.labels, examples, seed, argument))
        )

    def in_order(self):
        """`tf.data.Dataset` of (encoded image, label), class by class."""
        import tensorflow as tf

        return self._read(tf.data.Dataset.range(len(self)))

    def shuffled(self, seed, epoch):
        """The same in an order that depends on seed and epoch (a tensor) alone."""
        import tensorflow as tf

        last = np.int64(len(self) - 1)
        key = tf.cast(tf.stack([tf.constant(seed, "int64"), epoch]), "int32")
        places = tf.data.Dataset.range(len(self))
        return self._read(places.map(lambda n: tf.random.experimental.index_shuffle(n, key, last)))

    def broken(self):
        """Files that TensorFlow cannot decode, by reading all of them once.

        Returns:
            List of paths.
        """
        import tensorflow as tf

        def check(place, image):
            return place, tf.shape(decode(image[0]))

        checked = self.in_order().enumerate().map(check, tf.data.AUTOTUNE, deterministic=True)
        whole = {int(place) for place, _ in checked.ignore_errors()}
        return [self.files.files[place] for place in range(len(self)) if place not in whole]

    def _read(self, places):
        import tensorflow as tf

        paths = tf.constant([str(file) for file in self.files.files])
        labels = tf.constant(self.files.labels)
        return places.map(
            lambda place: (tf.io.read_file(paths[place]), labels[place]),
            tf.data.AUTOTUNE,
            deterministic=True,
        )


@dataclass(frozen=True)
class RecordSource:
    """Images of a data set that tensorflow-datasets has prepared, read record by record.

    Attributes:
        paths: Files of records.
        parse: Function from a record to (encoded image, label).
        count: Number of images, of all files together.
        take: How many of them, the first ones, are used.
    """

    paths: tuple
    parse: object = field(repr=False)
    count: int
    take: int = None

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
        return cls(tuple(map(str, info.filepaths)), parse, info.num_examples)

    def __len__(self):
        return self.count if self.take is None else self.take

    def subset(self, examples, seed, argument):
        """The first images in the order of preparation, which tensorflow-datasets has shuffled.

        Raises:
            ValueError: If the number is out of range.
        """
        if examples is not None and not 1 <= examples <= self.count:
            raise ValueError(
                f"`{argument}` must be between 1 and {self.count}. Received: {argument}={examples}"
            )
        return replace(self, take=examples)

    def broken(self):
        """No files: records have no names, and tensorflow-datasets has decoded each of them."""
        return []

    def in_order(self):
        """`tf.data.Dataset` of (encoded image, label), file by file."""
        import tensorflow as tf

        records = tf.data.TFRecordDataset(list(self.paths)).take(len(self))
        return records.map(self.parse, tf.data.AUTOTUNE, deterministic=True)

    def shuffled(self, seed, epoch):
        """The same in an order that depends on seed and epoch (a tensor) alone.

        Files in random order, sixteen read in turns, and a buffer of encoded images: the usual
        approximation of a shuffle. Of a subset only the buffer shuffles.
        """
        import tensorflow as tf

        if self.take is None:
            paths, last = tf.constant(self.paths), np.int64(len(self.paths) - 1)
            key = tf.cast(tf.stack([tf.constant(seed, "int64"), epoch]), "int32")
            order = tf.random.experimental.index_shuffle(tf.range(last + 1), key, last)
            records = tf.data.Dataset.from_tensor_slices(tf.gather(paths, order)).interleave(
                tf.data.TFRecordDataset,
                cycle_length=min(_INTERLEAVED, len(self.paths)),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        else:
            records = tf.data.TFRecordDataset(list(self.paths)).take(self.take)
        if not tf.executing_eagerly():
            # Of the function being traced alone. The global seed would have a say in the order, and
            # one of 0 TensorFlow cannot compare with a tensor.
            tf.random.set_seed(1)
        drawn = tf.random.stateless_uniform(
            (), tf.stack([tf.constant(seed, "int64"), epoch]), 0, 2**62, "int64"
        )
        records = records.shuffle(
            min(_SHUFFLE_BUFFER, len(self)), seed=drawn, reshuffle_each_iteration=False
        )
        return records.map(self.parse, tf.data.AUTOTUNE, deterministic=True)
