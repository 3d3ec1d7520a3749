import keras


class Loss(keras.losses.Loss):
    """A Keras loss that keeps its dtype when it is saved; that of Keras 3.15 forgets it.

    Args:
        name: Name of the loss.
        reduction: Keras' reduction over the samples.
        dtype: Dtype of the computation; float32 unless Keras' `floatx` says otherwise.
    """

    def get_config(self):
        return {**super().get_config(), "dtype": self.dtype}
