import keras
from keras import ops

from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import fraction


@keras.saving.register_keras_serializable("letkd_keras")
class SmoothedCrossentropy(Loss):
    """Cross-entropy of logits with smoothed integer labels.

    Keras' `SparseCategoricalCrossentropy` has no label smoothing.

    Args:
        label_smoothing: Share of each label that is spread over all classes, at least 0 and less
            than 1.
        reduction: Keras' reduction over the samples.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: Integer classes [B] or [B, 1].
        y_pred: Logits [B, classes].
        sample_weight: Weights [B] of the samples, or `None`.

    Raises:
        ValueError: If `label_smoothing` is out of its range.
    """

    def __init__(
        self,
        label_smoothing,
        reduction="sum_over_batch_size",
        name="smoothed_crossentropy",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = fraction.check(label_smoothing, "label_smoothing")

    def call(self, y_true, y_pred):
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        labels = ops.one_hot(labels, ops.shape(y_pred)[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            labels, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )
