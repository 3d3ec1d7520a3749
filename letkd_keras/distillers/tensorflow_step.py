import keras
import tensorflow as tf


class StepOnWorkers:
    """Corrections of Keras' steps on TensorFlow for several workers and several CPU replicas.

    Keras 3.15 fails under `tf.distribute.MultiWorkerMirroredStrategy`. These steps do not. On
    several CPU replicas it fails with XLA and with several steps at once, which are refused here.
    A step is traced once; Keras 3.15 traces it twice for a model that was built before.
    """

    def make_train_function(self, force=False):
        """Make Keras' compiled step, unless Keras 3.15 would fail in it.

        This is not checked in `compile`, because Keras loads a model that has a `compile` of its
        own without its optimizer and loss.

        Raises:
            ValueError: If several replicas on CPUs shall run XLA or several steps at once.
        """
        if _has_replicas_on_cpus(self.distribute_strategy):
            chosen = {
                "steps_per_execution": (self.steps_per_execution, 1),
                "jit_compile": (self.jit_compile, False),
            }
            for name, (value, usable) in chosen.items():
                if value != usable:
                    raise ValueError(
                        f"`{name}` must be {usable} on several CPU replicas, where Keras fails "
                        "with anything else; use GPUs or one device to have it. "
                        f"Received: {name}={value}, strategy={self.distribute_strategy}"
                    )
        return super().make_train_function(force)

    def train_step(self, data):
        return self._gatherable(super().train_step(data))

    def test_step(self, data):
        return self._gatherable(super().test_step(data))

    def _gatherable(self, logs):
        """The logs as vectors where there are several workers: Keras 3.15 gathers no scalars."""
        if self._has_several_workers():
            return {name: tf.reshape(value, (1,)) for name, value in logs.items()}
        return logs

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if self._has_several_workers():
            return  # Keras 3.15 fails at it over several workers
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        if iterator is not None and self.distribute_strategy.num_replicas_in_sync == 1:
            # This makes the variables of optimizer and metrics. TensorFlow traces a step twice if
            # the first trace makes variables. On several replicas Keras has made them already.
            batch = keras.tree.map_structure(
                _none_for_optional, iterator._get_iterator().element_spec
            )
            _check_ranks(batch)
            self._symbolic_build(data_batch=batch)

    def _has_several_workers(self):
        return isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy)


class TrainStep(StepOnWorkers):
    """A distiller's steps on TensorFlow, on one or several devices of one or several machines."""

    def train_step(self, data):
        """One step: teacher outside the gradient tape, student once inside it."""
        _check_ranks(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self.check_labels(y)
        replicas = self.distribute_strategy.num_replicas_in_sync
        # Keras clears the losses of a model when it is called. A step calls the student instead.
        self._clear_losses()
        with self.all_layers_built():
            teacher_outputs = self.compute_teacher_outputs(x, y)
            with tf.GradientTape() as tape:
                student_outputs = self.compute_student_outputs(x)
                loss, parts = self.compute_total_loss(
                    x, y, student_outputs, teacher_outputs, sample_weight
                )
                scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_weights
        self.optimizer.apply(tape.gradient(scaled_loss, variables), variables)
        batch = tf.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss * replicas, sample_weight=batch)
        self.track_losses(parts, x, replicas)
        logits = student_outputs["logits"]
        logs = self.compute_metrics(x, y, logits, sample_weight=sample_weight)
        return self._gatherable(logs)

    def test_step(self, data):
        _check_ranks(data)
        return self.without_training_losses(super().test_step(data))


def _none_for_optional(spec):
    """Keras replaces a `None` that a generator gives by an empty optional; this is the inverse."""
    return None if isinstance(spec, tf.OptionalSpec) else spec


def _check_ranks(data):
    """Refuse a batch of which TensorFlow knows no number of dimensions.

    Raises:
        ValueError: If there is such a tensor, as where a generator declares types alone, or where
            an earlier batch had another number of dimensions.
    """
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    for name, values in (("x", x), ("y", y)):
        for tensor in tf.nest.flatten(values):
            # NumPy arrays reach a step without Keras' loop; their shape is a tuple.
            if tensor is not None and getattr(tensor.shape, "rank", 0) is None:
                raise ValueError(
                    f"`{name}` must have a known number of dimensions, the same in all calls since "
                    "`compile`: give `output_signature` to `tf.data.Dataset.from_generator`, or "
                    "use `tf.ensure_shape`. "
                    f"Received: a tensor of shape {tensor.shape}"
                )


def _has_replicas_on_cpus(strategy):
    # TensorFlow's default strategy knows no worker devices.
    if strategy.num_replicas_in_sync == 1:
        return False
    return sum("device:CPU" in device for device in strategy.extended.worker_devices) > 1
