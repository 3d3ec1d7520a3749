import keras

from letkd_keras.functional.token_grid import feature_maps


class LayerOutputs:
    """A functional model that also returns the outputs of some of its layers, in one run.

    Not a Keras object on purpose: what is assigned to a `keras.Model` as a layer is trained,
    counted, summarized and written into every checkpoint. A distiller keeps its teacher out of all
    these, and its student's weights are saved once.

    Args:
        model: Functional `keras.Model` from images to logits.
        layers: Names of layers of the model. The tokens of a transformer become a feature map
            (`letkd_keras.functional.feature_maps`).
        argument: What an error calls `layers`.

    Attributes:
        model: The model.
        shapes: Shape of each layer's output, without the batch dimension.

    Call arguments:
        inputs: Images, or as `images_of`.
        training: Whether the model runs in training mode.

    Returns:
        Dictionary of `"logits"` and `"features"`, the list of the layers' outputs.

    Raises:
        ValueError: If the model has no such layer, or calls it more than once.
    """

    def __init__(self, model, layers=(), argument="layers"):
        self.model = model
        flat, features = feature_maps(model, layers, argument)
        self.shapes = [tuple(output.shape[1:]) for output in features]
        outputs = {"logits": flat.outputs[0], "features": features}
        self._values = []
        self._function = keras.Model(flat.inputs[0], outputs, name="layer_outputs")

    def __call__(self, inputs, training):
        outputs = self._function(images_of(inputs), training=training)
        outputs["features"] = [
            _with_known_shape(features, shape)
            for features, shape in zip(outputs["features"], self.shapes, strict=True)
        ]
        return outputs

    def has_new_weights(self):
        """Whether weights of the model were assigned since the last call of this method."""
        before, self._values = self._values, [variable.value for variable in self.model.variables]
        return [id(value) for value in before] != [id(value) for value in self._values]


def images_of(inputs):
    """The images of a batch, which may be a dictionary of them alone.

    Keras compares its key with the name of a model's input. Teacher and student may have inputs of
    different names, and a student that is copied loses its own.
    """
    if isinstance(inputs, dict) and len(inputs) == 1:
        (inputs,) = inputs.values()
    return inputs


def _with_known_shape(features, shape):
    """Features whose shape is lost inside a graph where a data set declares no image size."""
    if None not in features.shape[1:] or None in shape:
        return features
    return keras.ops.reshape(features, (-1, *shape))
