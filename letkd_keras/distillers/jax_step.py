import keras


class TrainStep:
    """A distiller's steps on JAX, whose trainer differentiates a pure function of the variables."""

    def fit(self, *args, **kwargs):
        # The compiled step has the teacher's weights as constants.
        if self.teacher_graph is not None and self.teacher_graph.has_new_weights():
            self.train_function = None
        try:
            return super().fit(*args, **kwargs)
        except Exception as error:
            # JAX says what cannot be divided, not what to do about it.
            # The error is an IndivisibleError, before JAX 0.6 a plain ValueError.
            if type(error).__name__ == "IndivisibleError" or "divisible by" in str(error):
                error.add_note(
                    "Under `keras.distribution` every batch, the last of an epoch too, must be a "
                    "multiple of the number of devices: choose `batch_size` so, or drop the rest."
                )
            raise

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
        with keras.StatelessScope(values, collect_losses=True) as scope:
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


def _values(scope, variables):
    return [scope.get_current_value(variable) for variable in variables]
