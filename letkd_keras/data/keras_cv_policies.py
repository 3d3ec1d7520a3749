"""Stronger augmentation with the keras-cv library, on batches of a `tf.data` pipeline."""

import keras

from letkd_keras.errors import did_you_mean

POLICIES = ("randaugment", "cutmix", "mixup")


def keras_cv_policies(names, num_classes):
    """RandAugment, CutMix and MixUp of keras-cv.

    If both CutMix and MixUp are named, one of them is drawn for each batch. They mix labels as well
    as images, and all labels become distributions over the classes. The intermediate soft targets
    of letKD need one class for each image and use the stronger label (`IntermediateTargets`).

    keras-cv's CutMix weights labels by the whole rectangle, even if the border cuts off a part of
    it. keras-cv has its own random states: a training that was interrupted continues with other
    random numbers than one that was not.

    Args:
        names: Names of `POLICIES`, in any order.
        num_classes: Number of classes.

    Returns:
        `policy(images, labels)`, from uint8 [B, H, W, 3] and integers [B] to float32 [B, H, W, 3]
        in [0, 255] and the labels: unchanged, or float32 [B, classes] if they may be mixed.

    Raises:
        ValueError: If a name is unknown.
        ImportError: If keras-cv is not installed, or tensorflow-model-optimization was imported
            before it; keras-cv then cannot be imported.
    """
    for name in names:
        check(name)
    keras_cv = _import_keras_cv()
    import tensorflow as tf

    random_augment = None
    if "randaugment" in names:
        random_augment = keras_cv.layers.RandAugment(value_range=(0, 255))
    mixing = [
        layer()
        for name, layer in (("cutmix", keras_cv.layers.CutMix), ("mixup", keras_cv.layers.MixUp))
        if name in names
    ]
    if len(mixing) > 1:
        mixing = [keras_cv.layers.RandomChoice(mixing, batchwise=True)]

    def policy(images, labels):
        images = tf.cast(images, "float32")
        if random_augment is not None:
            images = random_augment(images)
        if mixing:
            batch = {"images": images, "labels": tf.one_hot(labels, num_classes)}
            batch = mixing[0](batch, training=True)
            images, labels = batch["images"], batch["labels"]
        return keras.ops.clip(images, 0, 255), labels

    return policy


def mixes_labels(augmentation):
    """Whether labels are distributions with these options of `training_batches`."""
    return any(name in augmentation.get("policies", ()) for name in ("cutmix", "mixup"))


def check(name):
    """Refuse an unknown policy, and any of them where keras-cv cannot be used.

    Raises:
        ValueError: With the names of `POLICIES`; or on another backend than TensorFlow, or in its
            deterministic mode.
        ImportError: As `keras_cv_policies`.
    """
    if name not in POLICIES:
        raise ValueError(
            f"`policies` must be names of {', '.join(POLICIES)}. Received: {name!r}"
            f"{did_you_mean(name, POLICIES)}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`policies` need the TensorFlow backend (KERAS_BACKEND=tensorflow). "
            f"Received: {name!r} with KERAS_BACKEND={keras.backend.backend()}"
        )
    # As Keras asks for it. RandAugment differs from run to run even with a generator that is set.
    from tensorflow.python.framework.config import is_op_determinism_enabled

    if is_op_determinism_enabled():
        raise ValueError(
            "`policies` must be left out in TensorFlow's deterministic mode "
            f"(TF_DETERMINISTIC_OPS). Received: {name!r}, which keras-cv draws from random states "
            "of its own"
        )
    _import_keras_cv()


def check_channels(names, channels):
    """Refuse RandAugment, which changes colors, for images without them.

    Args:
        names: Names of `POLICIES`.
        channels: Number of channels of the images.

    Raises:
        ValueError: If RandAugment is named and the number is not three.
    """
    if "randaugment" in names and channels != 3:
        raise ValueError(
            "`policies` can have randaugment only for images of three channels. "
            f"Received: images with {channels}"
        )


def _import_keras_cv():
    # Keras is imported before it; otherwise it builds layers of Keras 2.
    try:
        import keras_cv
    except ImportError as error:
        raise ImportError(
            "RandAugment, CutMix and MixUp need keras-cv: pip install 'letkd-keras[augment]'"
        ) from error
    except AttributeError as error:
        raise ImportError(
            "keras-cv cannot be imported after tensorflow-model-optimization: import keras_cv "
            "first, or use another process"
        ) from error
    return keras_cv
