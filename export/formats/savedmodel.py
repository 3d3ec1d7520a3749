from pathlib import Path

import keras


def write_savedmodel(student, path, options):
    """Write a TensorFlow SavedModel.

    Its default endpoint `serve` maps images to `{"logits": ...}` or `{"probabilities": ...}`. Where
    the pixels of the images are known there is also `classify`, which maps uint8 images to
    `{"probabilities": ...}` and, with `class_names`, to the `"class_name"` of the most probable
    class.

    Args:
        student: Functional `keras.Model` that returns logits.
        path: Folder to write.
        options: `ExportOptions`.
    """
    import tensorflow as tf

    archive = _archive(student, options)
    if options.knows_pixels:

        def classify(image):
            images = tf.cast(image, "float32")
            if options.input != "pixels":
                images = options.normalize(images)
            probabilities = tf.nn.softmax(student(images, training=False))
            outputs = {"probabilities": probabilities}
            if options.class_names is not None:
                names = tf.constant(options.class_names)
                outputs["class_name"] = tf.gather(names, tf.argmax(probabilities, axis=-1))
            return outputs

        shape = (None, *student.input_shape[1:])
        archive.add_endpoint("classify", classify, [tf.TensorSpec(shape, "uint8", "image")])
    archive.write_out(Path(path), verbose=False)


def write_serving(student, path, options):
    """Write a SavedModel with the endpoint `serve` only, for converters."""
    _archive(student, options).write_out(Path(path), verbose=False)


def serving(model, options):
    """Make the function that an artifact computes.

    Args:
        model: Function from images to logits, called with `training=False`.
        options: `ExportOptions`.

    Returns:
        A function from `image` to a dictionary with `"logits"` or `"probabilities"`.
    """
    import tensorflow as tf

    def serve(image):
        outputs = model(image, training=False)
        if options.output == "probabilities":
            outputs = tf.nn.softmax(outputs)
        return {options.output: outputs}

    return serve


def _archive(student, options):
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    shape = (None, *student.input_shape[1:])
    # Not tracked: the endpoint captures the variables, and tracking would write them twice.
    archive.add_endpoint(
        "serve",
        serving(student, options),
        [tf.TensorSpec(shape, "float32", "image")],
    )
    return archive
