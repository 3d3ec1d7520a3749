"""Layers that were adapted by LoRA (`enable_lora` of Keras) as plain layers."""

from letkd_keras.functional.graph import flatten, layers_inside
from letkd_keras.functional.graph_copy import copy_of, copy_with


def without_lora(model):
    """Copy a model with the low-rank matrices of its layers added to their kernels.

    Args:
        model: Functional `keras.Model`.

    Returns:
        A functional model of plain layers that computes the same, with all its kernels trainable;
        the model itself if none of its layers has such matrices.

    Raises:
        ValueError: If a layer inside another one has such matrices.
    """
    flat = flatten(model)
    adapted = [layer for layer in layers_inside(flat) if getattr(layer, "lora_enabled", False)]
    if not adapted:
        return model
    inside = [layer for layer in adapted if layer not in flat.layers]
    if inside:
        raise ValueError(
            "`model` must not have LoRA in layers inside others, such as those of "
            f"MultiHeadAttention. Received: {model.name!r} with LoRA in {inside[0].path!r}"
        )
    merged = {}

    def call(layer, call_copy, *args, **kwargs):
        if not getattr(layer, "lora_enabled", False):
            return call_copy(*args, **kwargs)
        if layer in merged:
            return merged[layer](*args, **kwargs)
        merged[layer] = copy_of(layer, lora_rank=None, lora_alpha=None)
        outputs = merged[layer](*args, **kwargs)  # which builds it
        stored = {}
        layer.save_own_variables(stored)  # Keras adds the matrices to the kernel here
        merged[layer].load_own_variables(stored)
        return outputs

    return copy_with(flat, call)
