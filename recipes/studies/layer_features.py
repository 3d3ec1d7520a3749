"""What the KD layers of a trained student read and give: x and x_hat."""

import keras
import numpy as np

from letkd_keras.functional.graph import nodes
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.recipes.trainings.predictions import predictions


def pooled_features(student, layer_name, data, split):
    """Features before and after a KD layer, averaged over the grid of each image.

    Args:
        student: Student with a KD layer of this name.
        layer_name: `"kd_penultimate"` or `"kd_intermediate"`.
        data: The data set.
        split: `"train"`, `"test"` or `"validation"`.

    Returns:
        Dictionary of `x` and `x_hat`, float32 [N, C], and `labels` [N].
    """
    layer = kd_layers_of(student)[layer_name]
    node = next(node for node in nodes(student) if node.operation is layer)
    model = keras.Model(
        student.inputs, {"x": node.input_tensors[0], "x_hat": node.output_tensors[0]}
    )
    axes = (2, 3) if layer.data_format == "channels_first" else (1, 2)
    features = {"x": [], "x_hat": [], "labels": []}
    for outputs, labels in predictions(model, data, split):
        for name, maps in outputs.items():
            features[name].append(maps.mean(axes))
        features["labels"].append(labels)
    return {name: np.concatenate(values) for name, values in features.items()}
