"""Weights by rule: what the golden files were computed with (tests/golden/README.md)."""

import math

import numpy as np


def rule_weights(keys, seed):
    """The PyTorch state dict that `seed` stands for.

    Args:
        keys: List of [name, shape] in the order of the state dict.
        seed: Integer seed of the rule.

    Returns:
        Dictionary of names to float32 arrays in PyTorch's shapes, without the entries
        `num_batches_tracked` (which nevertheless take their index).
    """
    weights = {}
    for index, (name, shape) in enumerate(keys):
        if name.endswith("num_batches_tracked"):
            continue
        generator = np.random.default_rng([int(seed), index])
        weights[name] = _array(name, shape, generator).astype(np.float32)
    return weights


def _array(name, shape, generator):
    if name.endswith("running_var"):
        return generator.uniform(0.5, 1.5, shape)
    if name.endswith("running_mean"):
        return 0.1 * generator.standard_normal(shape)
    if len(shape) > 1:
        return generator.standard_normal(shape) * np.sqrt(0.5 / math.prod(shape[1:]))
    if name.endswith("bias"):
        return 0.1 * generator.standard_normal(shape)
    return generator.uniform(0.5, 1.5, shape)
