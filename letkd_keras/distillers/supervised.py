import keras

if keras.backend.backend() == "tensorflow":
    from letkd_keras.distillers.tensorflow_step import StepOnWorkers
else:

    class StepOnWorkers:
        """Nothing: on JAX, Keras trains any model on several machines."""


@keras.saving.register_keras_serializable("letkd_keras")
class Supervised(StepOnWorkers, keras.Model):
    """A functional model that is trained by labels alone, on several workers too.

    `fit` of a plain `keras.Model` fails under `tf.distribute.MultiWorkerMirroredStrategy` (Keras
    3.15). This class has the corrections that distillers have. It is made like a functional model
    and shares the layers: `Supervised(model.inputs, model.outputs)`. Weights that it saves are
    those of the model.
    """
