from keras import ops

# Added to the standard deviation, as in the authors' program.
_EPSILON = 1e-7
# Below this variance the square root's gradient is cut off: at 0 it would be infinite.
_SMALLEST_VARIANCE = 1e-20


def standardize_logits(logits):
    """Each sample's logits minus their mean, divided by their standard deviation.

        (z - mean(z)) / (1e-7 + std(z))

    with the standard deviation over `classes - 1`, as `torch.std` takes it. A softmax of the
    result does not change when the logits are shifted or scaled by a positive number, so that the
    student need not match the range of the teacher's logits (Sun et al., "Logit Standardization in
    Knowledge Distillation", CVPR 2024; the form is the authors' program's).

    Args:
        logits: Logits [B, classes], two classes or more.

    Returns:
        Tensor [B, classes]; zeros where a sample's logits are all equal.
    """
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    return centered / (_EPSILON + ops.sqrt(ops.maximum(variance, _SMALLEST_VARIANCE)))
