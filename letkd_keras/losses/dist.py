import keras
from keras import ops

from letkd_keras.losses import teacher_logits
from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import non_negative_number, positive_number

# Added to the product of the norms, as in the authors' program.
_EPSILON = 1e-8
# Probabilities whose squared differences from their mean are a smaller share of their squares count
# as equal. Their differences are rounding errors, and the gradient, which is divided by the norm of
# the differences, would destroy the weights in one step.
_SMALLEST_SHARE = 1e-8
# No sum of weights is taken as smaller.
_SMALLEST_TOTAL = 1e-24


@keras.saving.register_keras_serializable("letkd_keras")
class DISTLoss(Loss):
    """Correlation of the student's probabilities with the teacher's, by sample and by class.

        T^2 (beta mean_i (1 - r(Y_i:, S_i:)) + gamma mean_k (1 - r(Y_:k, S_:k)))

    with Y and S the softened probabilities [B, classes] of teacher and student and r Pearson's
    correlation: of a sample's probabilities over the classes (inter-class), and of a class's
    probabilities over the batch (intra-class). Correlation asks for less than equality, which a
    small student cannot reach under a strong teacher (Huang et al., "Knowledge Distillation from A
    Stronger Teacher", NeurIPS 2022). The factor T squared is that of the authors' program. The
    paper's listing has none. The labels are not used.

    The intra-class part is a value of the whole batch, which `call` adds to each sample's
    inter-class part, so that the mean over the batch is the sum above. **It is computed per
    replica**: under a distribution strategy each replica correlates over its own part of the batch,
    so that the value depends on how the batch is divided. A batch of one image has no intra-class
    correlation; that part is then a constant.

    A `sample_weight` weighs the samples in both parts: in the intra-class part means and
    correlations over the batch are weighted, so that a sample of weight 0 is absent from it. As
    with every Keras loss, the sum is then divided by the size of the batch, not by the weights'
    sum.

    Args:
        beta: Weight of the inter-class part, 0 or more. With two classes this part has no gradient.
        gamma: Weight of the intra-class part, 0 or more.
        temperature: T, more than 0; 1 in the authors' program for ImageNet, usually 4 on CIFAR-100.
        reduction: Keras' reduction over the samples.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: `(teacher's logits [B, classes], labels)`.
        y_pred: Student's logits [B, classes].
        sample_weight: Weights [B] or [B, 1] of the samples, 0 or more, or `None`.

    Raises:
        ValueError: If `beta`, `gamma` or `temperature` is out of its range.
    """

    def __init__(
        self,
        beta=1.0,
        gamma=1.0,
        temperature=1.0,
        reduction="sum_over_batch_size",
        name="dist",
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.beta = non_negative_number.check(beta, "beta")
        self.gamma = non_negative_number.check(gamma, "gamma")
        self.temperature = positive_number.check(temperature, "temperature")

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras weighs values after `call`; the correlation over the batch needs the weights in it.
        if sample_weight is not None:
            y_true = {"pair": y_true, "weights": sample_weight}
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        weights = 1.0
        if isinstance(y_true, dict):
            weights = ops.reshape(y_true["weights"], (-1, 1))
            y_true = y_true["pair"]
        teacher, student, _ = teacher_logits.split(y_true, y_pred)
        teacher = ops.softmax(teacher / self.temperature)
        student = ops.softmax(student / self.temperature)
        inter = 1 - _correlation(teacher, student, axis=1)
        intra = ops.mean(1 - _correlation(teacher, student, axis=0, weights=weights))
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


def _correlation(x, y, axis, weights=1.0):
    """Pearson's correlation along an axis, with weights that broadcast to x and y.

    It is 0, with gradients of zero, where the values of x or y are all equal.
    """
    weights = ops.broadcast_to(ops.cast(weights, x.dtype), ops.shape(x))
    total = ops.maximum(ops.sum(weights, axis=axis, keepdims=True), _SMALLEST_TOTAL)

    def centered(values):
        differences = values - ops.sum(weights * values, axis=axis, keepdims=True) / total
        square = ops.sum(weights * ops.square(differences), axis=axis)
        differs = square > _SMALLEST_SHARE * ops.sum(weights * ops.square(values), axis=axis)
        # The root of what is not selected must have a finite gradient, too.
        return differences, ops.sqrt(ops.where(differs, square, 1.0)), differs

    (x, x_norm, x_differs), (y, y_norm, y_differs) = centered(x), centered(y)
    correlation = ops.sum(weights * x * y, axis=axis) / (x_norm * y_norm + _EPSILON)
    return ops.where(ops.logical_and(x_differs, y_differs), correlation, 0.0)
