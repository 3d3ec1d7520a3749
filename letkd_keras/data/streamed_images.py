"""Data sets that are read from disk image by image, because they do not fit into memory."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from letkd_keras.data.array_batches import (
    check_batch_size,
    normalizer,
    part_of_batch,
    steps_per_epoch,
    without_auto_shard,
)
from letkd_keras.data.dataset import Dataset
from letkd_keras.data.image_sources import decode
from letkd_keras.data.selection import find_split

# In evaluation the shorter side is resized to 256 pixels for a crop of 224, as usual.
_RESIZED = 256 / 224


@dataclass(frozen=True)
class StreamedImages(Dataset):
    """A classification data set whose images are decoded as they are needed.

    Only the current batches are in memory, and for records a buffer of encoded images that are
    shuffled.

    Attributes:
        name: Name of the data set, for manifests and reports.
        train: Source of the training images: `FileSource` or `RecordSource`.
        test: Source of the test images.
        image_size: Height and width of the crops.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        class_names: Name of each class, in the order of the labels.
        split: How the images were split, for a reader of an accuracy.
        validation: Source of images held out of the training images, or `None`.
    """

    # No annotation: it is no field.
    evaluation_crop = 1 / _RESIZED

    name: str
    train: object = field(repr=False)
    test: object = field(repr=False)
    image_size: int
    mean: tuple
    std: tuple
    class_names: tuple = field(repr=False)
    split: str = ""
    validation: object = field(default=None, repr=False)

    @property
    def image_shape(self):
        """Shape of one image."""
        return (self.image_size, self.image_size, 3)

    @cached_property
    def digest(self):
        """SHA-256 of the lists of files with their sizes and labels, in hexadecimal.

        The contents of the files are not read.
        """
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        for source in self._splits().values():
            digest.update(f"\n{source.digest()}".encode())
        return digest.hexdigest()

    def subset(self, train_examples=None, test_examples=None, seed=0):
        """A smaller data set: of files with the classes in the same proportion, else the first.

        Args:
            train_examples: Number of training images, or `None` for all.
            test_examples: Number of test images, or `None` for all.
            seed: Seed of the choice.

        Returns:
            `StreamedImages`.

        Raises:
            ValueError: If a number is out of range.
        """
        return replace(
            self,
            train=self.train.subset(train_examples, seed, "train_examples"),
            test=self.test.subset(test_examples, seed, "test_examples"),
        )

    def training_batches(
        self,
        batch_size,
        *,
        area=(0.08, 1.0),
        aspect=(3 / 4, 4 / 3),
        flip=True,
        seed=0,
        first_epoch=0,
        epochs=None,
        drop_remainder=True,
        part=None,
    ):
        """Shuffled batches of random resized crops, a function of seed and epoch only.

        A crop of random area and aspect is resized to `image_size` (bilinear, antialiased).

        Args:
            batch_size: Images of a batch.
            area: Smallest and largest share of the image that a crop covers.
            aspect: Smallest and largest width-to-height ratio of a crop.
            flip: Whether half of the images are mirrored left to right.
            seed: Seed of order and crops.
            first_epoch: Epoch the data set starts with.
            epochs: Epoch that the data set ends before, `None` for no end. Give `fit`
                `steps_per_epoch`.
            drop_remainder: Whether the last, smaller batch of an epoch is left out.
            part: `(index, count)` for one of so many equal parts of every batch, such as that of
                a worker; other images are not decoded. `None` for whole batches.

        Returns:
            `tf.data.Dataset` of (float32 [B, H, W, 3], int64 [B]).

        Raises:
            ValueError: If the batch is larger than the data, or cannot be divided.
        """
        import tensorflow as tf

        count = len(self.train)
        check_batch_size(batch_size, count)
        own = part_of_batch(batch_size, part, drop_remainder)
        positions = tf.data.Dataset.range(count)
        if part is None:
            size, keep = batch_size, None
        else:
            size, in_whole_batches = own.stop - own.start, count // batch_size * batch_size

            def keep(position):
                number = position % batch_size
                is_own = (number >= own.start) & (number < own.stop)
                return (position < in_whole_batches) & is_own

            positions = positions.filter(keep)

        def epoch_batches(epoch):
            def crop(position, image):
                encoded, label = image
                draw = tf.stack([tf.constant(seed, "int64"), epoch * count + position])
                return self._random_crop(encoded, draw, area, aspect, flip), label

            images = tf.data.Dataset.zip(positions, self.train.shuffled(seed, epoch, keep))
            crops = images.map(crop, tf.data.AUTOTUNE, deterministic=True)
            return self._batches(crops, size, drop_remainder)

        numbers = tf.data.Dataset.range(
            first_epoch, np.iinfo("int64").max if epochs is None else epochs
        )
        return without_auto_shard(numbers.flat_map(epoch_batches).prefetch(tf.data.AUTOTUNE))

    def evaluation_batches(self, batch_size=256, split="test", part=None):
        """Batches in a fixed order: the centers of images resized to 8/7 of `image_size`.

        Args:
            batch_size: Images of a batch; the last batch may be smaller.
            split: `"test"`, `"train"` or, if there is one, `"validation"`.
            part: `(index, count)` for the images `index`, `index + count`, ...; `None` for all.

        Returns:
            `tf.data.Dataset` of (float32 [B, H, W, 3], int64 [B]).

        Raises:
            ValueError: If there is no such split, or the batch size is out of range.
        """
        import tensorflow as tf

        check_batch_size(batch_size)
        source = find_split(self._splits(), split)
        index, parts = part or (0, 1)
        images = (
            source.in_order()
            .shard(parts, index)
            .map(
                lambda encoded, label: (self._center_crop(encoded), label),
                tf.data.AUTOTUNE,
                deterministic=True,
            )
        )
        batches = self._batches(images, batch_size).prefetch(tf.data.AUTOTUNE)
        # TensorFlow does not know the number of records.
        count = len(range(index, len(source), parts))
        steps = steps_per_epoch(count, batch_size, drop_remainder=False)
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
        return without_auto_shard(batches)

    def evaluation_batch(self, number, batch_size, split="test"):
        """One batch of `evaluation_batches`, by its number; only its images are decoded.

        Args:
            number: Number of the batch, from 0.
            batch_size: Images of a batch.
            split: As for `evaluation_batches`.

        Returns:
            (float32 [B, H, W, 3], int64 [B]).

        Raises:
            ValueError: If there is no such split.
        """
        first, last = number * batch_size, min((number + 1) * batch_size, self.examples(split))
        source = find_split(self._splits(), split).between(first, last)
        return next(iter(replace(self, test=source).evaluation_batches(batch_size, "test")))

    def examples(self, split):
        """Number of images of a split.

        Raises:
            ValueError: If there is no such split.
        """
        return len(find_split(self._splits(), split))

    def check(self):
        """Read every image once, or every file of records.

        Raises:
            ValueError: Naming files that cannot be decoded, or are damaged.
        """
        files = [str(file) for source in self._splits().values() for file in source.unreadable()]
        if files:
            more = f" and {len(files) - 5} more" if len(files) > 5 else ""
            raise ValueError(
                f"Files cannot be read: {', '.join(files[:5])}{more}. Remove images "
                "that are damaged; prepare a data set of tensorflow-datasets again"
            )

    def _splits(self):
        splits = {"train": self.train, "test": self.test}
        return splits if self.validation is None else {**splits, "validation": self.validation}

    def _hold_out(self, fraction, seed):
        validation, train = self.train.hold_out(fraction, seed)
        return {"train": train, "validation": validation}

    def _first_classes(self, classes):
        return {name: source.first_classes(classes) for name, source in self._splits().items()}

    def _batches(self, images, batch_size, drop_remainder=False):
        import tensorflow as tf

        normalize = normalizer(self.mean, self.std)
        return images.batch(batch_size, drop_remainder).map(
            lambda x, y: (normalize(x), y), tf.data.AUTOTUNE, deterministic=True
        )

    def _random_crop(self, encoded, seed, area, aspect, flip):
        import tensorflow as tf

        jpeg = tf.io.is_jpeg(encoded)
        shape = tf.cond(
            jpeg,
            lambda: tf.io.extract_jpeg_shape(encoded),
            lambda: tf.shape(decode(encoded)),
        )
        begin, size = draw_crop(shape, seed, area, aspect)
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.cond(
            jpeg,
            # Decodes only the part of a JPEG that the crop needs.
            lambda: tf.io.decode_and_crop_jpeg(encoded, window, channels=3),
            lambda: tf.slice(decode(encoded), begin, [size[0], size[1], 3]),
        )
        size = (self.image_size, self.image_size)
        image = self._rounded(tf.image.resize(image, size, antialias=True))
        if flip:
            mirrored = tf.random.stateless_uniform((), tf.add(seed, [0, 2**32])) < 0.5
            image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        return image

    def _center_crop(self, encoded):
        import tensorflow as tf

        image = decode(encoded)
        height, width = (tf.cast(side, "float32") for side in tf.unstack(tf.shape(image))[:2])
        shorter = round(self.image_size * _RESIZED)
        scale = shorter / tf.minimum(height, width)
        sides = [tf.cast(tf.round(side * scale), "int32") for side in (height, width)]
        corner = tf.stack([(side - self.image_size) // 2 for side in sides])
        # What `tf.image.resize` does, but of the crop alone: a very oblong image could need
        # gigabytes as a whole.
        image = tf.raw_ops.ScaleAndTranslate(
            images=image[tf.newaxis],
            size=(self.image_size, self.image_size),
            scale=tf.cast(tf.stack(sides), "float32") / tf.stack([height, width]),
            translation=-tf.cast(corner, "float32"),
            kernel_type="triangle",
            antialias=True,
        )
        return self._rounded(image[0])

    def _rounded(self, image):
        import tensorflow as tf

        image = tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), "uint8")
        return tf.ensure_shape(image, self.image_shape)


def draw_crop(shape, seed, area, aspect):
    """Draw the place of a random crop.

    Args:
        shape: Shape of the image, integer tensor [3].
        seed: Two integers, on which the crop depends alone.
        area: Smallest and largest share of the image that a crop covers.
        aspect: Smallest and largest width-to-height ratio. Where ten attempts find no such crop,
            as in images whose sides differ by more than 16 times, it is the whole image.

    Returns:
        `(begin, size)` for `tf.slice`, whose `size` has -1 for the channels.
    """
    import tensorflow as tf

    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=aspect,
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return begin, size
