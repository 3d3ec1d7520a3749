import keras

from letkd_keras.functional.graph import find_layer, flatten, output_of


class LayerOutputs:
    """A functional model that also returns the outputs of some of its layers, in one run.

    Not a Keras object on purpose: what is assigned to a `keras.Model` as a layer is trained,
    counted, summarised and written into every checkpoint. A distiller keeps its teacher out of all
    these, and its student's weights are saved once.

    Args:
        model: Functional `keras.Model` from images to logits.
        layers: Names of layers of the model.
        argument: What an error calls `layers`.

    Attributes:
        model: The model.
        shapes: Shape of each layer's output, without the batch dimension.

    Call arguments:
        inputs: Images.
        training: Whether the model runs in training mode.

    Returns:
        Dictionary of `"logits"` and `"features"`, the list of the layers' outputs.

    Raises:
        ValueError: If the model has no such layer, or calls it more than once.
    """

    def __init__(self, model, layers=(), argument="layers"):
        self.model = model
        flat = flatten(model)
        features = [output_of(flat, find_layer(flat, name, argument)) for name in layers]
        self.shapes = [tuple(output.shape[1:]) for output in features]
        outputs = {"logits": flat.outputs[0], "features": features}
        self._function = keras.Model(flat.inputs[0], outputs, name="layer_outputs")

    def __call__(self, inputs, training):
        return self._function(inputs, training=training)
