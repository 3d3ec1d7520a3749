"""Stronger augmentation, of the keras-cv library, on batches in a `tf.data` pipeline."""

import difflib

POLICIES = ("randaugment", "cutmix", "mixup")


def keras_cv_policies(names, num_classes):
    """RandAugment, CutMix and MixUp as keras-cv has them.

    Of CutMix and MixUp, where both are named, each batch takes one by chance. They mix labels as
    well as images, and all labels then become distributions over the classes. The intermediate soft
    targets of letKD, which need one class an image, take the stronger label
    (`IntermediateTargets`).

    keras-cv's CutMix weighs labels by the whole rectangle, also where the border cuts some of it
    off. It draws from random states of its own: a training that was interrupted goes on with other
    draws than an undisturbed one.

    Args:
        names: Of `POLICIES`, in any order.
        num_classes: Number of classes.

    Returns:
        `policy(images, labels)`, from uint8 [B, H, W, 3] and integers [B] to float32 [B, H, W, 3]
        in [0, 255] and the labels: as they were, or float32 [B, classes] if they may be mixed.

    Raises:
        ValueError: If a name is unknown.
        ImportError: If keras-cv is not installed, or tensorflow-model-optimization was imported
            before it, which breaks it.
    """
    for name in names:
        check(name)
    try:
        import keras  # before keras_cv, which otherwise builds layers of Keras 2
        import keras_cv
    except ImportError as error:
        raise ImportError(
            "RandAugment, CutMix and MixUp are keras-cv's: pip install 'letkd-keras[augment]'"
        ) from error
    except AttributeError as error:
        raise ImportError(
            "keras-cv cannot be imported after tensorflow-model-optimization: import keras_cv "
            "first, or augment in a process of its own"
        ) from error
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
    """Whether options of `training_batches` give labels that are distributions."""
    return any(name in augmentation.get("policies", ()) for name in ("cutmix", "mixup"))


def check(name):
    """Refuse a policy that keras-cv is not asked for.

    Raises:
        ValueError: Listing those there are.
    """
    if name not in POLICIES:
        close = difflib.get_close_matches(str(name), POLICIES, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"`policies` must be of {', '.join(POLICIES)}. Received: {name!r}.{hint}")
