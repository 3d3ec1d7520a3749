from keras import ops

# Added to the standard deviation, as in the authors' program.
_EPSILON = 1e-7
# Logits of a smaller variance count as equal. Their differences are rounding errors, and the
# gradient, which is divided by the standard deviation, would destroy the weights in one step.
_SMALLEST_VARIANCE = 1e-8


def softened(logits, temperature, standardize):
    """Logits over the temperature, standardized before if `standardize` is true."""
    return (standardize_logits(logits) if standardize else logits) / temperature


def standardize_logits(logits):
    """Each sample's logits minus their mean, divided by their standard deviation.

        (z - mean(z)) / (1e-7 + std(z))

    with the standard deviation over `classes - 1`, as `torch.std` takes it. A softmax of the
    result does not change when the logits are shifted or scaled by a positive number, so that the
    student need not match the range of the teacher's logits (Sun et al., "Logit Standardization in
    Knowledge Distillation", CVPR 2024; the form is the authors' program's).

    Args:
        logits: Logits [B, classes], three classes or more.

    Returns:
        Tensor [B, classes]; zeros, with gradients of zero, where a sample's logits are all equal
        (a variance of at most 1e-8), such as those of a classifier that starts from zeros.

    Raises:
        ValueError: If there are fewer than three classes. Two standardized logits are always -0.71
            and 0.71, so that nothing could be learned from them.
    """
    if logits.shape[-1] is not None and logits.shape[-1] < 3:
        raise ValueError(
            "Logits must be of three classes or more to be standardized: two have the same values "
            f"in every image. Received: logits of shape {tuple(logits.shape)}"
        )
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    differs = variance > _SMALLEST_VARIANCE
    # The root of what is not selected must have a finite gradient, too.
    deviation = ops.sqrt(ops.where(differs, variance, 1.0))
    return ops.where(differs, centered / (_EPSILON + deviation), 0.0)
