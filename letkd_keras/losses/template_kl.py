import keras
from keras import ops

from letkd_keras.losses.loss import Loss


@keras.saving.register_keras_serializable("letkd_keras")
class TemplateKLDivergence(Loss):
    """KL(targets || softmax(scores)) over the templates, averaged over the locations.

    It is computed as `sum p log p + logsumexp(s) - sum p s`. No probability of the student is
    clipped, and only the largest one of each location enters a logarithm. The gradient of the
    scores is softmax(s) - p. No gradient flows to the targets.

    As a Keras loss it divides by the number of replicas under a distribution strategy, and a
    `sample_weight` [B] weighs the images.

    Args:
        reduction: Keras' reduction over the images; the default averages.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: Targets p [B, H, W, K], or `(p, sum_k p log p)` with the second [B, H, W].
        y_pred: Scores s [B, H, W, K].
    """

    def __init__(self, reduction="sum_over_batch_size", name="template_kl", dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)

    def call(self, y_true, y_pred):
        if isinstance(y_true, (tuple, list)):
            targets, plogp = y_true
        else:
            targets, plogp = y_true, negentropy(y_true)
        return ops.mean(plogp + _cross_entropy(targets, y_pred), axis=(1, 2))


def log_normalizer(logits, probabilities):
    """Log of the sum of the exponentials over the last axis, where the softmax is at hand.

    The largest probability is at least 1/K, so that its logarithm is always good.
    """
    return ops.max(logits, axis=-1) - ops.log(ops.max(probabilities, axis=-1))


def inner_product(x, y):
    """Sum of the products over the last axis of [B, H, W, K], without a tensor of them."""
    return ops.einsum("bhwk,bhwk->bhw", x, y)


def negentropy(p):
    """Sum of p log p over the last axis."""
    # p log p is 0 at 0; the inner maximum keeps the logarithm's value, and gradient, finite there.
    return ops.sum(p * ops.log(ops.maximum(p, 1e-37)), axis=-1)


def _cross_entropy(targets, scores):
    """-sum_k p log softmax(s) by location."""

    # By automatic differentiation a step would write twice as many tensors of [B, H, W, K].
    @ops.custom_gradient
    def of_scores(scores):
        probabilities = ops.softmax(scores)
        difference = probabilities - targets

        def gradient(upstream):
            return upstream[..., None] * difference

        return log_normalizer(scores, probabilities) - inner_product(targets, scores), gradient

    return of_scores(scores)
