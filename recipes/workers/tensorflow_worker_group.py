"""The group of workers of TensorFlow."""

import numpy as np

from letkd_keras.recipes.workers.worker_group import WorkerGroup


class TensorFlowWorkerGroup(WorkerGroup):
    """Workers of `tf.distribute.MultiWorkerMirroredStrategy`, as in `TF_CONFIG`."""

    def __init__(self, count, index):
        import tensorflow as tf

        try:
            # TensorFlow waits for all workers here.
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(
                "`TF_CONFIG` must be set before TensorFlow computes anything in the process "
                f"({error})"
            ) from error
        super().__init__(count, index, self.strategy.num_replicas_in_sync)
        self.own_devices = self.devices // count

    def sum(self, values):
        import tensorflow as tf

        def of_device(context):
            first = context.replica_id_in_sync_group % self.own_devices == 0
            return tf.constant(values if first else np.zeros_like(values))

        with self.watched(), self.scope():
            parts = self.strategy.experimental_distribute_values_from_function(of_device)
            return self.strategy.reduce("SUM", parts, axis=None).numpy()

    def errors_of_lost_workers(self):
        from tensorflow import errors

        return (
            *(errors.UnavailableError, errors.AbortedError, errors.CancelledError),
            *(errors.DeadlineExceededError, errors.FailedPreconditionError, errors.InternalError),
        )

    def scope(self):
        return self.strategy.scope()

    def distributed(self, batches, size, class_weights):
        import tensorflow as tf

        if class_weights is not None:
            # Keras cannot add them to a data set that is distributed already.
            weights = tf.constant([class_weights[label] for label in sorted(class_weights)])

            def with_weights(x, y):
                return x, y, tf.gather(weights, y if y.dtype.is_integer else tf.argmax(y, -1))

            batches = batches.map(with_weights)
        # One element of the data set for each device of this worker.
        if self.own_devices > 1:
            batches = batches.rebatch(size // self.own_devices)
        return self.strategy.distribute_datasets_from_function(lambda context: batches), {}
