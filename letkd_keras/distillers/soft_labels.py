import keras
from keras import ops


@keras.saving.register_keras_serializable("letkd_keras")
class SoftLabelKLDivergence(keras.losses.Loss):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits (Hinton et al. 2015).

    Args:
        temperature: T, more than 0.
        reduction: Keras' reduction over the images.
        name: Name of the loss.
        dtype: Dtype of the computation.
    """

    def __init__(
        self, temperature=4.0, reduction="sum_over_batch_size", name="soft_label_kl", dtype=None
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be more than 0. Received: temperature={temperature}"
            )
        self.temperature = temperature

    def call(self, y_true, y_pred):
        teacher = ops.log_softmax(y_true / self.temperature)
        student = ops.log_softmax(y_pred / self.temperature)
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
