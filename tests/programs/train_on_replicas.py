"""Train a small LetKD with logit losses on so many logical CPU devices and save the results.

A program of its own: TensorFlow's devices are set once a process.

    python train_on_replicas.py DEVICES FLOATX BLOCK_SIZE EPOCHS FILE.npz

A block size of 0 means none. An epoch has three steps.

Prototypes are fitted once, in `prototypes.npz` beside the file: a point between two clusters may
fall to either for a rounding.
"""

import sys
from pathlib import Path

import keras
import numpy as np

import letkd_keras as letkd


def classifier(name, channels):
    """A network with the batch normalization of the zoo."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(channels, 3, padding="same")(inputs)
    x = keras.layers.ReLU()(letkd.TorchBatchNormalization()(x))
    x = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name="intermediate")(x)
    x = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(4)(x), name=name)


def images():
    """48 images and labels."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(48, 8, 8, 3)).astype("float32")
    return x, generator.integers(0, 4, 48)


def small_letkd(folder, block_size=None):
    """A compiled LetKD and its teacher; the prototypes are those in the folder."""
    keras.utils.set_random_seed(0)
    teacher, student = classifier("teacher", 12), classifier("student", 6)
    shared = Path(folder) / "prototypes.npz"
    if not shared.exists():
        fitted = letkd.fit_prototypes(teacher, images(), templates=16, subclasses=2, components=3)
        fitted.save(shared)
    logit_losses = {
        "kd": (letkd.losses.KDLoss(), 0.5),
        "keras": (keras.distillation.LogitsDistillation(2.0), 0.1),
    }
    model = letkd.LetKD(
        teacher,
        student,
        letkd.Prototypes.load(shared),
        logit_losses=logit_losses,
        warm_up_steps=4,
        block_size=block_size,
    )
    model.compile(
        optimizer=letkd.optimizers.TorchSGD(0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model, teacher


def main(devices, block_size, epochs, path):
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * devices
    )
    strategy = tf.distribute.get_strategy()
    if devices > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    with strategy.scope():
        model, teacher = small_letkd(Path(path).parent, block_size)
    before = teacher.get_weights()
    data = tf.data.Dataset.from_tensor_slices(images()).batch(16)
    history = model.fit(data, epochs=epochs, verbose=0, shuffle=False)
    for after, expected in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(after, expected)
    logs = {f"log {name}": values for name, values in history.history.items()}
    weights = {f"weight {i}": array for i, array in enumerate(model.student.get_weights())}
    np.savez(path, **logs, **weights, replicas=strategy.num_replicas_in_sync)


if __name__ == "__main__":
    keras.config.set_floatx(sys.argv[2])
    main(int(sys.argv[1]), int(sys.argv[3]) or None, int(sys.argv[4]), sys.argv[5])
