import keras

from letkd_keras.functional.graph import find_layer, flatten, output_of


class LayerOutputs:
    """A functional model that also gives the outputs of some of its layers, run once.

    Not a Keras object on purpose: the weights are the model's, and are saved once.

    Args:
        model: Functional `keras.Model` from images to logits.
        taps: Mapping of names to layers of the model.

    Attributes:
        shapes: Shape of each tap's output, without the batch dimension.

    Call arguments:
        inputs: Images.
        training: Whether the model runs in training mode.

    Returns:
        Dictionary of `"logits"` and the outputs under the names of the taps.

    Raises:
        ValueError: If a tap is not in the model.
    """

    def __init__(self, model, taps):
        flat = flatten(model)
        outputs = {name: output_of(flat, find_layer(flat, tap)) for name, tap in taps.items()}
        self.shapes = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
        outputs["logits"] = flat.outputs[0]
        self._function = keras.Model(flat.inputs[0], outputs, name="tapped")

    def __call__(self, inputs, training):
        return self._function(inputs, training=training)
