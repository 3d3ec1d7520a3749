"""PyTorch state dicts into the networks of the zoo."""

import numpy as np

# PyTorch's name of a parameter -> Keras' name of the weight, by the kind of layer.
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_LINEAR = {"weight": "kernel", "bias": "bias"}


def assign_state_dict(model, state_dict):
    """Give a network of the zoo the weights of a PyTorch state dict.

    Layers of the zoo bear the names of the PyTorch modules, with `_` for `.`; kernels are
    transposed from [out, in, h, w] and [out, in]. Nothing is assigned unless everything fits.

    Args:
        model: A model of `letkd_keras.models.build`, of the same width and number of classes.
        state_dict: Mapping of PyTorch names to arrays. `num_batches_tracked` entries are ignored.

    Raises:
        ValueError: If names are missing or unexpected or a shape differs; all of them are listed.
    """
    weights = {
        (layer.name, weight.name): weight for layer in model.layers for weight in layer.weights
    }
    assignments, unexpected, misshaped = {}, [], []
    for key, value in state_dict.items():
        if key.endswith("num_batches_tracked"):
            continue
        module, _, parameter = key.rpartition(".")
        layer = module.replace(".", "_")
        target = next(
            (
                (layer, names[parameter])
                for names in (_BATCH_NORM, _LINEAR)
                if (layer, names.get(parameter)) in weights
            ),
            None,
        )
        if target is None:
            unexpected.append(key)
            continue
        value = np.asarray(value)
        if target[1] == "kernel":
            value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        if value.shape != tuple(weights[target].shape):
            misshaped.append(f"{key} is {value.shape}, expected {tuple(weights[target].shape)}")
        assignments[target] = value
    missing = ["/".join(target) for target in weights if target not in assignments]
    if missing or unexpected or misshaped:
        raise ValueError(
            f"The state dict does not fit {model.name!r}: missing {missing or 'nothing'}; "
            f"unexpected {unexpected or 'nothing'}; misshaped {misshaped or 'nothing'}."
        )
    for target, value in assignments.items():
        weights[target].assign(value)
