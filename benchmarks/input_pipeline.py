"""Images per second of one core that ImageNet's input pipeline supplies, on made-up records.

    python benchmarks/input_pipeline.py

It writes JPEG images of ImageNet's mean size (500x375 pixels, about 110 KiB) as a data set of
tensorflow-datasets, and reads it in several ways. JSON lines: `pipeline`, `images_per_cpu_s`
(images per second of processor time, so that it does not matter what else the machine does) and
`kib_per_image` of records. All run on one thread.

  records     the encoded images alone
  plain       as tensorflow-datasets gives them, decoded in full; random resized crop, flip, batch
  training    `training_batches`: of a JPEG only the crop is decoded
  evaluation  `evaluation_batches`: decoded in full, resized, center

With `--operations` it instead times what `training_batches` does to an image: JSON lines with
`operation` and `cpu_ms`, each with all operations before it.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

for _name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
PIPELINES = ("records", "plain", "training", "evaluation")
NAME = "made_up_images"
EPOCHS = 4


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--pipelines", nargs="*", choices=PIPELINES, default=PIPELINES)
    parser.add_argument("--folder", help="keeps the records (default: a temporary folder)")
    parser.add_argument("--operations", action="store_true")
    options = parser.parse_args()
    if options.operations:
        for line in operations():
            print(json.dumps(line), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = options.folder or folder
        if not (Path(folder) / NAME).exists():
            write(folder, options.images)
        for pipeline in options.pipelines:
            print(json.dumps(measure(pipeline, folder, options.batch_size)), flush=True)


def measure(pipeline, folder, size):
    """A line's figures."""
    import tensorflow_datasets as tfds

    from letkd_keras.data.tfds import load_tfds

    data = load_tfds(NAME, folder)
    batches = {
        "records": lambda: data.train.in_order().repeat(EPOCHS).batch(size),
        "plain": lambda: plain_batches(tfds.builder(NAME, data_dir=folder), data, size),
        "training": lambda: data.training_batches(size, epochs=EPOCHS),
        "evaluation": lambda: data.evaluation_batches(size, "train").repeat(EPOCHS),
    }[pipeline]()
    # All images that are computed are counted, those in buffers too: whole epochs, whole batches.
    seen, start = 0, time.process_time()
    for _, labels in batches.with_options(one_thread()):
        seen += len(labels)
    seconds = time.process_time() - start
    files = sum(Path(path).stat().st_size for path in data.train.paths)
    return {
        "pipeline": pipeline,
        "images_per_cpu_s": round(seen / seconds, 1),
        "kib_per_image": round(files / len(data.train) / 1024, 1),
    }


def operations():
    """The lines of `--operations`."""
    import tensorflow as tf

    from letkd_keras.data.streamed_images import StreamedImages, draw_crop

    area, aspect, size = (0.08, 1.0), (3 / 4, 4 / 3), (224, 224)
    data = StreamedImages("", None, None, size[0], (0.5,) * 3, (0.5,) * 3, ("a", "b"))

    def draw(encoded, seed):
        return draw_crop(tf.io.extract_jpeg_shape(encoded), seed, area, aspect)

    def decode_in_full(encoded, seed):
        image = tf.io.decode_jpeg(encoded, channels=3)
        begin, size = draw_crop(tf.shape(image), seed, area, aspect)
        return tf.slice(image, begin, [size[0], size[1], 3])

    def decode_crop(encoded, seed):
        begin, size = draw(encoded, seed)
        return tf.io.decode_and_crop_jpeg(encoded, tf.concat([begin[:2], size[:2]], 0), channels=3)

    def resize(encoded, seed, antialias=True):
        return tf.image.resize(decode_crop(encoded, seed), size, antialias=antialias)

    def round_to_bytes(encoded, seed):
        return tf.cast(tf.round(tf.clip_by_value(resize(encoded, seed), 0, 255)), "uint8")

    functions = {
        "draw": draw,
        "decode in full and cut": decode_in_full,
        "decode the crop": decode_crop,
        "resize": resize,
        "resize, not antialiased": lambda encoded, seed: resize(encoded, seed, False),
        "round to bytes": round_to_bytes,
        "flip": lambda encoded, seed: data._random_crop(encoded, seed, area, aspect, True),
    }
    images = tf.data.Dataset.from_tensor_slices([jpeg(number) for number in range(8)])
    images = images.repeat(20).enumerate()
    for name, function in functions.items():
        results = images.map(lambda number, x, f=function: f(x, tf.stack([number, number])))
        results = iter(results.with_options(one_thread()))
        next(results)
        start = time.process_time()
        seen = sum(1 for _ in results)
        yield {"operation": name, "cpu_ms": round(1e3 * (time.process_time() - start) / seen, 2)}


def one_thread():
    """Options of `tf.data` for one thread, which computes no more than is taken."""
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return options


def plain_batches(builder, data, batch_size):
    """The usual pipeline on what `as_dataset` gives: decode, crop, resize, flip, normalize."""
    import tensorflow as tf

    mean, std = (255 * tf.constant(x) for x in (data.mean, data.std))

    def augment(image, label):
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 0, 4)),
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.slice(image, begin, size)
        image = tf.image.resize(image, data.image_shape[:2], antialias=True)
        image = tf.ensure_shape(tf.image.random_flip_left_right(image), data.image_shape)
        return (image - mean) / std, label

    images = builder.as_dataset(split="train", shuffle_files=True, as_supervised=True)
    images = images.repeat(EPOCHS).map(augment, tf.data.AUTOTUNE)
    return images.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def write(folder, images):
    """Prepare the data set, of twenty different images."""
    import io

    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    contents = [jpeg(number) for number in range(20)]

    class MadeUpImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, manager):
            return {"train": self._generate_examples(images), "test": self._generate_examples(10)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"image": io.BytesIO(contents[number % 20]), "label": number % 10}

    MadeUpImages(data_dir=folder).download_and_prepare()


def jpeg(number):
    """An encoded image whose size and detail are about those of a photo."""
    import io

    import numpy as np
    from PIL import Image

    r = np.random.default_rng(number)
    size = (500, 375) if number % 4 else (375, 500)
    # Noise at all scales, the weaker the finer.
    pixels = np.zeros((size[1], size[0], 3))
    for scale in (1, 2, 4, 8, 16, 32, 64, 128):
        coarse = r.normal(size=(size[1] // scale + 2, size[0] // scale + 2, 3)) * 255 / 8
        image = [
            Image.fromarray(coarse[..., channel].astype("float32"), "F").resize(size, Image.BICUBIC)
            for channel in range(3)
        ]
        pixels += np.stack([np.asarray(channel) for channel in image], -1) * scale**0.5 / 3
    encoded = io.BytesIO()
    image = Image.fromarray(np.clip(pixels + 128, 0, 255).astype("uint8"))
    image.save(encoded, "JPEG", quality=94)
    return encoded.getvalue()


if __name__ == "__main__":
    main()
