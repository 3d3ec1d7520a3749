import keras
from keras import ops


@keras.saving.register_keras_serializable("letkd_keras")
class TemplateKLDivergence(keras.losses.Loss):
    """KL(targets || softmax(scores)) over the templates, averaged over the locations.

    In the form `sum p log p + logsumexp(s) - sum p s`: no probability of the student is ever
    formed, clipped or taken the logarithm of, and the gradient is softmax(s) - p.

    As a Keras loss it divides by the number of replicas under a distribution strategy, and a
    `sample_weight` [B] weighs the images.

    Args:
        reduction: Keras' reduction over the images; the default averages.
        name: Name of the loss.
        dtype: Dtype of the computation; float32 unless Keras' `floatx` says otherwise.

    Call arguments:
        y_true: Targets p [B, H, W, K], or `(p, sum_k p log p)` with the second [B, H, W].
        y_pred: Scores s [B, H, W, K].
    """

    def __init__(self, reduction="sum_over_batch_size", name="template_kl", dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true, y_pred):
        if isinstance(y_true, (tuple, list)):
            targets, negentropy = y_true
        else:
            targets, negentropy = y_true, _negentropy(y_true)
        divergence = (
            negentropy + ops.logsumexp(y_pred, axis=-1) - ops.sum(targets * y_pred, axis=-1)
        )
        return ops.mean(divergence, axis=(1, 2))


def _negentropy(p):
    # p log p is 0 at 0; the inner maximum keeps the logarithm's value, and gradient, finite there.
    return ops.sum(p * ops.log(ops.maximum(p, 1e-37)), axis=-1)
