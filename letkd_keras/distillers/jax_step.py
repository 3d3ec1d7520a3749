import contextlib
import functools

import keras

_NOTE = (
    "Under `keras.distribution` every batch, the last of an epoch too, must be a multiple of the "
    "number of devices: choose `batch_size` so, or drop the rest."
)


class TrainStep:
    """A distiller's steps on JAX, whose trainer differentiates a pure function of the variables."""

    def make_train_function(self, force=False):
        # The compiled step has the teacher's weights as constants.
        graph = self.teacher_graph
        has_new_teacher = graph is not None and graph.has_new_weights()
        with self._as_another_function("train_step"):
            return super().make_train_function(force or has_new_teacher)

    def make_test_function(self, force=False):
        with self._as_another_function("test_step"):
            return super().make_test_function(force)

    @contextlib.contextmanager
    def _as_another_function(self, name):
        """Make a method unequal to itself, so that JAX compiles it again.

        JAX takes the compiled function of an equal one, such as the method before `compile` changed
        the loss, as long as anything refers to that.
        """
        setattr(self, name, functools.partial(getattr(type(self), name), self))
        try:
            yield
        finally:
            delattr(self, name)

    def fit(self, *args, **kwargs):
        with self._stopped_with_weights():
            return super().fit(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        with self._stopped_with_weights():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        with self._stopped_with_weights():
            return super().predict(*args, **kwargs)

    @contextlib.contextmanager
    def _stopped_with_weights(self):
        """Leave the weights of the last step where one fails, and explain what JAX does not."""
        try:
            yield
        except BaseException as error:
            # Keras does so in `fit` alone.
            self.jax_state_sync()
            # JAX says what cannot be divided, not what to do about it.
            # The error is an IndivisibleError, before JAX 0.6 a plain ValueError.
            name, text = type(error).__name__, str(error)
            is_indivisible = name == "IndivisibleError" or "divisible by" in text
            # `fit` passes on what its `evaluate` raised.
            if is_indivisible and _NOTE not in getattr(error, "__notes__", ()):
                error.add_note(_NOTE)
            raise

    def _get_jax_state(self, *args, purge_model_variables=False, **kwargs):
        # Keras takes the values out of the variables here and puts them back from `_jax_state`,
        # which only a step that ends sets. Left in, they are there when the first step cannot be
        # traced. They need no memory: the compiled step takes them over.
        self._jax_state = None
        # Where `fit` has ended with `use_ema`, Keras 3.15 fails in the next step: weights and their
        # averages are the same arrays, and a step takes over each array once.
        return _distinct(super()._get_jax_state(*args, **kwargs))

    def compute_loss_and_updates(
        self,
        trainable_variables,
        non_trainable_variables,
        metrics_variables,
        x,
        y,
        sample_weight,
        training=False,
        optimizer_variables=None,
    ):
        """Loss and new state of a batch; in training under the teacher (Keras calls this)."""
        if not training:
            return super().compute_loss_and_updates(
                trainable_variables,
                non_trainable_variables,
                metrics_variables,
                x,
                y,
                sample_weight,
            )
        values = [
            *zip(self.trainable_variables, trainable_variables, strict=True),
            *zip(self.non_trainable_variables, non_trainable_variables, strict=True),
            *zip(self.metrics_variables, metrics_variables, strict=True),
            *zip(self.optimizer.variables, optimizer_variables, strict=True),
        ]
        self.check_labels(y)
        stateless = keras.StatelessScope(values, collect_losses=True)
        with self.all_layers_built(), stateless as scope:
            teacher_outputs = self.compute_teacher_outputs(x, y)
            student_outputs = self.compute_student_outputs(x)
            loss, parts = self.compute_total_loss(
                x, y, student_outputs, teacher_outputs, sample_weight
            )
            self.track_losses(parts, x)
            scaled_loss = self.optimizer.scale_loss(loss)
        return scaled_loss, (
            loss,
            student_outputs["logits"],
            _values(scope, self.non_trainable_variables),
            _values(scope, self.metrics_variables),
        )

    def test_step(self, state, data):
        logs, state = super().test_step(state, data)
        return self.without_training_losses(logs), state


def _distinct(state):
    """The state, with a copy of each array that it has twice."""
    seen = set()

    def distinct(array):
        if id(array) in seen:
            return keras.ops.copy(array)
        seen.add(id(array))
        return array

    return keras.tree.map_structure(distinct, state)


def _values(scope, variables):
    return [scope.get_current_value(variable) for variable in variables]
