import inspect

import keras
from keras import ops


class Loss(keras.losses.Loss):
    """A Keras loss that is saved with all its options; that of Keras 3.15 forgets its dtype.

    Args:
        name: Name of the loss.
        reduction: Keras' reduction over the samples.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.
    """

    def __call__(self, y_true, y_pred, sample_weight=None):
        if self.dtype not in ("float16", "bfloat16"):
            return super().__call__(y_true, y_pred, sample_weight)
        # Keras casts labels too, and half precision does not have all indices of classes.
        exact = type(self).from_config({**self.get_config(), "dtype": "float32"})
        return ops.cast(Loss.__call__(exact, y_true, y_pred, sample_weight), self.dtype)

    def get_config(self):
        """The arguments of the constructors, of the base classes first, that are attributes too."""
        kinds = (kind for kind in reversed(type(self).__mro__) if issubclass(kind, Loss))
        names = [name for kind in kinds for name in inspect.signature(kind).parameters]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


class ScalarLoss(Loss):
    """A scalar that was computed elsewhere, divided by the number of replicas as Keras does it.

    Call arguments:
        y_true: Not read.
        y_pred: The scalar.
    """

    def call(self, y_true, y_pred):
        return ops.reshape(y_pred, (1,))
