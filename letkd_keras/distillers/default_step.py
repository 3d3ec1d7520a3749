class TrainStep:
    """A distiller's steps where Keras' own trainer splits them into pure functions (JAX)."""

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
        raise NotImplementedError
