import keras
from keras import ops


class Loss(keras.losses.Loss):
    """A Keras loss that keeps its dtype when it is saved; that of Keras 3.15 forgets it.

    Args:
        name: Name of the loss.
        reduction: Keras' reduction over the samples.
        dtype: Dtype of the computation; float32 unless Keras' `floatx` says otherwise.
    """

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype}


class ScalarLoss(Loss):
    """A scalar that was computed elsewhere, divided by the number of replicas as Keras does it.

    Call arguments:
        y_true: Not read.
        y_pred: The scalar.
    """

    def call(self, y_true, y_pred):
        return ops.reshape(y_pred, (1,))
