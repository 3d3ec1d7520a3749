"""`fit` on JAX with a whole epoch in one call of a GPU, for images in memory.

A GPU needs less time for a step of a small network than Python needs to start it. Here the loop
over the steps is a part of the compiled program: `jax.lax.scan` over Keras' own `train_step`. The
batches and the results are those of Keras' `fit`, up to rounding.
"""

import itertools

import keras
import numpy as np


def applies(model, batches):
    """Whether `fit` of this module can take the place of Keras' own.

    Args:
        model: Compiled model.
        batches: What the data's `training_batches` returned.

    Returns:
        `True` on a GPU with JAX, for images in memory without their numbers, on one device and not
        eagerly. It is `False` on a CPU, where XLA runs the loop more slowly than Python does.
    """
    if keras.backend.backend() != "jax":
        return False
    import jax

    from letkd_keras.data.jax_batches import JaxBatches

    return (
        isinstance(batches, JaxBatches)
        and not batches.with_rows
        and jax.default_backend() != "cpu"
        and keras.distribution.distribution() is None
        and not model.run_eagerly
    )


def fit(model, batches, validation_data, *, steps_per_epoch, initial_epoch, epochs, callbacks):
    """Train a model as `keras.Model.fit` does. Callbacks see each epoch as one step.

    Args:
        model: Compiled model.
        batches: `JaxBatches` of the training images, from the first step of `initial_epoch` on.
        validation_data: `JaxBatches` of the images that are evaluated after every epoch.
        steps_per_epoch: Number of steps of an epoch.
        initial_epoch: Number of the first epoch, from 0.
        epochs: Number of epochs of the whole training.
        callbacks: List of callbacks.
    """
    import jax

    # Makes the variables of loss, metrics and optimizer.
    images, labels = map(jax.numpy.asarray, batches[0])
    outputs = jax.numpy.zeros(model.compute_output_shape(images.shape))
    model.compute_loss(images, labels, outputs)
    model.compute_metrics(images, labels, outputs)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    train, evaluate = _loop(model.train_step, batches), _loop(model.test_step, validation_data)
    numbers = iter(batches.numbers)
    callbacks = keras.callbacks.CallbackList(
        callbacks, model=model, epochs=epochs, steps=steps_per_epoch
    )
    model.stop_training = False
    logs = {}
    callbacks.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        callbacks.on_epoch_begin(epoch)
        callbacks.on_train_batch_begin(0)
        metrics = _run(train, model, [*itertools.islice(numbers, steps_per_epoch)], training=True)
        step = _first_broken(metrics["loss"])
        logs = {name: float(values[step]) for name, values in metrics.items()}
        callbacks.on_train_batch_end(step, logs)
        callbacks.on_test_begin()
        model.reset_metrics()
        metrics = _run(evaluate, model, validation_data.numbers, training=False)
        found = {name: float(values[-1]) for name, values in metrics.items()}
        callbacks.on_test_end(found)
        logs |= {f"val_{name}": value for name, value in found.items()}
        callbacks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    callbacks.on_train_end(logs)


def _loop(step, batches):
    """A compiled function of (state, batch numbers): one step of Keras for each of them."""
    import jax

    labels = jax.numpy.asarray(batches.labels)

    @jax.jit
    def loop(state, images, labels, rows, numbers):
        def body(state, batch):
            rows, number = batch
            logs, state = step(state, (batches.make(images, rows, number), labels[rows]))
            return state, logs

        return jax.lax.scan(body, state, (rows, numbers))

    def run(state, numbers):
        # The last batch of an evaluation may be smaller: a call of its own.
        rows = [batches.rows(number).astype("int32") for number in numbers]
        groups = []
        for _, group in itertools.groupby(zip(rows, numbers, strict=True), lambda b: len(b[0])):
            rows, numbers = map(np.stack, zip(*group, strict=True))
            state, logs = loop(state, batches.images, labels, rows, numbers.astype("int32"))
            groups.append(logs)
        return state, {name: np.concatenate([g[name] for g in groups]) for name in logs}

    return run


def _first_broken(losses):
    """Number of the first step whose loss is not finite, or of the last step."""
    broken = ~np.isfinite(losses)
    return int(np.argmax(broken)) if broken.any() else len(losses) - 1


def _run(loop, model, numbers, training):
    """Run a loop on the variables of a model.

    Returns:
        Dictionary of the metrics after each step, [steps]: means since the first step.
    """
    groups = [
        model.trainable_variables,
        model.non_trainable_variables,
        *([model.optimizer.variables] if training else []),
        model.metrics_variables,
    ]
    state, logs = loop(tuple([v.value for v in group] for group in groups), numbers)
    for variable, value in zip(itertools.chain(*groups), itertools.chain(*state), strict=True):
        variable.assign(value)
    return logs
