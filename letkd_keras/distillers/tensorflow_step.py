import keras
import tensorflow as tf


class TrainStep:
    """A distiller's steps on TensorFlow."""

    def train_step(self, data):
        """One step: teacher outside the gradient tape, student once inside it."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        taught = self.teach(x, y)
        replicas = self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            learned = self.learn(x)
            loss, parts = self.compute_distillation_loss(x, y, learned, taught, sample_weight)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_weights
        self.optimizer.apply(tape.gradient(scaled_loss, variables), variables)
        batch = tf.shape(keras.tree.flatten(x)[0])[0]
        self._loss_tracker.update_state(loss * replicas, sample_weight=batch)
        self.track_losses(parts, x, replicas)
        return self.compute_metrics(x, y, learned["logits"], sample_weight=sample_weight)

    def test_step(self, data):
        return self.without_training_losses(super().test_step(data))
