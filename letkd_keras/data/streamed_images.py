"""Data sets read from disk image by image, for those that no memory holds."""

from dataclasses import dataclass, field, replace

import numpy as np

from letkd_keras.data.image_sources import decode
from letkd_keras.data.pipeline import normaliser, steps_per_epoch, unsharded

# The usual margin of evaluation: 256 pixels of the shorter side for a crop of 224.
_MARGIN = 256 / 224


@dataclass(frozen=True)
class StreamedImages:
    """A classification data set whose images are decoded as they are needed.

    It has the methods and the descriptive attributes of `ImageData`. Nothing but the batches in
    work is in memory (and, for records, a buffer of encoded images to shuffle in).

    Attributes:
        name: Name of the data set, for manifests and reports.
        train: Source of the training images: `FileSource` or `RecordSource`.
        test: Source of the test images.
        image_size: Height and width of the crops.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        class_names: Name of each class, in the order of the labels.
        split: What a reader of an accuracy must know of the split.
    """

    name: str
    train: object = field(repr=False)
    test: object = field(repr=False)
    image_size: int
    mean: tuple
    std: tuple
    class_names: tuple = field(repr=False)
    split: str = ""

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self):
        """Shape of one image."""
        return (self.image_size, self.image_size, 3)

    @property
    def train_examples(self):
        """Number of training images."""
        return len(self.train)

    @property
    def test_examples(self):
        """Number of test images."""
        return len(self.test)

    def subset(self, train_examples=None, test_examples=None, seed=0):
        """A smaller data set, see `subset` of the sources.

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
    ):
        """Shuffled batches of random resized crops: a function of seed and epoch alone.

        A crop of random area and aspect is resized to `image_size` (bilinear, antialiased).

        Args:
            batch_size: Images a batch; the last batch of an epoch holds the rest.
            area: Smallest and largest share of the image that a crop covers.
            aspect: Smallest and largest width-to-height ratio of a crop.
            flip: Whether half of the images are mirrored left to right.
            seed: Seed of order and crops.
            first_epoch: Epoch the data set starts with.
            epochs: Number of epochs, `None` for no end. Give `fit` `steps_per_epoch`.

        Returns:
            `tf.data.Dataset` of (float32 [B, H, W, 3], int64 [B]).

        Raises:
            ValueError: If the batch is larger than the data.
        """
        import tensorflow as tf

        count = len(self.train)
        if not 1 <= batch_size <= count:
            raise ValueError(
                f"`batch_size` must be between 1 and the {count} images. "
                f"Received: batch_size={batch_size}"
            )

        def epoch_batches(epoch):
            def crop(place, image):
                encoded, label = image
                draw = tf.stack([tf.constant(seed, "int64"), epoch * count + place])
                return self._random_crop(encoded, draw, area, aspect, flip), label

            images = self.train.shuffled(seed, epoch).enumerate()
            return self._batches(images.map(crop, tf.data.AUTOTUNE, deterministic=True), batch_size)

        numbers = tf.data.Dataset.range(
            first_epoch, np.iinfo("int64").max if epochs is None else epochs
        )
        return unsharded(numbers.flat_map(epoch_batches).prefetch(tf.data.AUTOTUNE))

    def evaluation_batches(self, batch_size, split="test"):
        """Batches in a fixed order: the centres of images resized to 8/7 of `image_size`.

        Args:
            batch_size: Images a batch.
            split: `"test"` or `"train"`.

        Returns:
            `tf.data.Dataset` of (float32 [B, H, W, 3], int64 [B]).

        Raises:
            ValueError: If the split is neither.
        """
        import tensorflow as tf

        sources = {"train": self.train, "test": self.test}
        if split not in sources:
            raise ValueError(f"`split` must be 'train' or 'test'. Received: split={split!r}")
        source = sources[split]
        images = source.in_order().map(
            lambda encoded, label: (self._centre_crop(encoded), label),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
        batches = self._batches(images, batch_size).prefetch(tf.data.AUTOTUNE)
        # Sources of records cannot tell how many they are.
        steps = tf.data.experimental.assert_cardinality(steps_per_epoch(len(source), batch_size))
        return unsharded(batches.apply(steps))

    def check(self):
        """Read every image once.

        Raises:
            ValueError: Naming files that cannot be decoded.
        """
        broken = [str(file) for source in (self.train, self.test) for file in source.broken()]
        if broken:
            more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
            raise ValueError(f"Images that are broken: {', '.join(broken[:5])}{more}")

    def _batches(self, images, batch_size):
        import tensorflow as tf

        normalise = normaliser(self.mean, self.std)
        return images.batch(batch_size).map(
            lambda x, y: (normalise(x), y), tf.data.AUTOTUNE, deterministic=True
        )

    def _random_crop(self, encoded, seed, area, aspect, flip):
        import tensorflow as tf

        jpeg = tf.io.is_jpeg(encoded)
        shape = tf.cond(
            jpeg,
            lambda: tf.io.extract_jpeg_shape(encoded),
            lambda: tf.shape(decode(encoded)),
        )
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
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.cond(
            jpeg,
            # decodes no more of a JPEG than the crop needs
            lambda: tf.io.decode_and_crop_jpeg(encoded, window, channels=3),
            lambda: tf.slice(decode(encoded), begin, [size[0], size[1], 3]),
        )
        image = self._resize(image, (self.image_size, self.image_size))
        if flip:
            mirrored = tf.random.stateless_uniform((), tf.add(seed, [0, 2**32])) < 0.5
            image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        return image

    def _centre_crop(self, encoded):
        import tensorflow as tf

        image = decode(encoded)
        height, width = (tf.cast(side, "float32") for side in tf.unstack(tf.shape(image))[:2])
        margin = round(self.image_size * _MARGIN)
        scale = margin / tf.minimum(height, width)
        sides = [tf.cast(tf.round(side * scale), "int32") for side in (height, width)]
        image = self._resize(image, sides, shape=(None, None, 3))
        top, left = ((side - self.image_size) // 2 for side in sides)
        return tf.image.crop_to_bounding_box(image, top, left, self.image_size, self.image_size)

    def _resize(self, image, sides, shape=None):
        """Bilinear and antialiased, as whole numbers again."""
        import tensorflow as tf

        image = tf.image.resize(image, sides, antialias=True)
        image = tf.cast(tf.round(tf.clip_by_value(image, 0, 255)), "uint8")
        return tf.ensure_shape(image, shape or self.image_shape)
