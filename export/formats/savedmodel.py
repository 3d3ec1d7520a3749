from pathlib import Path

import keras


def write_savedmodel(student, path, options=None):
    """Write a TensorFlow SavedModel.

    Its default endpoint `serve` maps normalized images to `{"logits": ...}`. With `mean` and `std`
    there is also `classify`, which maps uint8 images to `{"probabilities": ...}` and, with
    `class_names`, to the `"class_name"` of the most probable class.

    Args:
        student: Functional `keras.Model` that returns logits.
        path: Folder to write.
        options: `ExportOptions`.
    """
    import tensorflow as tf

    shape = (None, *student.input_shape[1:])
    archive = keras.export.ExportArchive()
    # Not tracked: the endpoint captures the variables, and tracking would write them twice.
    archive.add_endpoint(
        "serve",
        lambda image: {"logits": student(image, training=False)},
        [tf.TensorSpec(shape, student.inputs[0].dtype, "image")],
    )
    if options is not None and options.mean is not None:

        def classify(image):
            images = options.normalize(tf.cast(image, "float32"))
            probabilities = tf.nn.softmax(student(images, training=False))
            outputs = {"probabilities": probabilities}
            if options.class_names is not None:
                names = tf.constant([str(name) for name in options.class_names])
                outputs["class_name"] = tf.gather(names, tf.argmax(probabilities, axis=-1))
            return outputs

        archive.add_endpoint("classify", classify, [tf.TensorSpec(shape, "uint8", "image")])
    archive.write_out(Path(path), verbose=False)
