import keras
from keras import ops

from letkd_keras.distillers.layer_outputs import LayerOutputs
from letkd_keras.distillers.soft_labels import SoftLabelKLDivergence
from letkd_keras.functional.graph import check_functional

if keras.backend.backend() == "tensorflow":
    from letkd_keras.distillers.tensorflow_step import TrainStep
elif keras.backend.backend() == "jax":
    from letkd_keras.distillers.jax_step import TrainStep
else:
    raise ImportError(
        "letkd_keras trains on TensorFlow or JAX: set KERAS_BACKEND to tensorflow or jax. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )


class FrozenTeacher:
    """A teacher outside a distiller's weights.

    Not a Keras object on purpose: what hangs on a `keras.Model` as a layer is trained, counted,
    summarised and written into every checkpoint. A distiller keeps its teacher out of all these
    and writes it only into a whole `.keras` file (`Distiller.save_assets`).

    Args:
        model: Functional teacher giving logits.
        taps: Mapping of names to further layers of the teacher whose outputs are wanted.

    Call arguments:
        inputs: Images.

    Returns:
        Dictionary of `"logits"` and the outputs under the names of the taps, in inference mode.
    """

    def __init__(self, model, taps=None):
        check_functional(model, "teacher")
        self.model = model
        self.tapped = LayerOutputs(model, taps or {})

    def __call__(self, inputs):
        return self.tapped(inputs, training=False)


class Distiller(TrainStep, keras.Model):
    """Shared part of all distilling models: teacher once, student once, named losses.

    `compile` and `fit` it like any model; `evaluate`, `predict` and calling it are the student
    alone and need no teacher. A subclass says what the teacher is asked for (`teach`), what the
    student gives while it learns (`learn`) and how far they differ (`distillation_losses`).

    The logs of `fit` have `loss` (what is minimised), `task_loss` (the compiled loss plus the
    student's own regularisers) and every distillation loss under its own name, without its weight.
    In evaluation `loss` is the task loss.

    Args:
        student: Functional `keras.Model` from images to logits, what is trained.
        loss_weights: Names of the distillation losses and their weights.
        task_weight: Weight of the task loss.
        kd_weight: Weight of a soft-label loss (`KD`) added to the others under the name `kd`; 0 for
            none. 1 in RepDistiller's combinations with KD.
        kd_temperature: Temperature of that loss.
        **kwargs: Keras' model arguments.

    Raises:
        ValueError: If the student is not functional with one input and one output.
    """

    def __init__(
        self,
        student,
        loss_weights,
        task_weight=1.0,
        kd_weight=0.0,
        kd_temperature=4.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_functional(student, "student")
        self.student = student
        self.task_weight = float(task_weight)
        if kd_weight:
            loss_weights = {**loss_weights, "kd": kd_weight}
        self.soft_label_kl = SoftLabelKLDivergence(kd_temperature)
        self.distillation_weights = {name: float(w) for name, w in loss_weights.items()}
        self.loss_trackers = {
            name: keras.metrics.Mean(name=name) for name in ("task_loss", *loss_weights)
        }
        self.built = True

    # What a method defines

    def teach(self, x, y):
        """What the teacher says of a batch: a dictionary with `"logits"`. No gradient is taken."""
        raise NotImplementedError

    def learn(self, x):
        """What the student gives in training mode: a dictionary with at least `"logits"`."""
        return {"logits": self.student(x, training=True)}

    def distillation_losses(self, learned, taught, sample_weight=None):
        """Scalar losses by name, each from a `keras.losses.Loss` (which knows of replicas)."""
        raise NotImplementedError

    # What Keras asks of a model

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return self.student.compute_output_shape(input_shape)

    def compute_distillation_loss(self, x, y, learned, taught, sample_weight=None):
        """Total loss of a training step and its named parts.

        Returns:
            `(total, parts)`: a scalar, and a dictionary of unweighted scalars.
        """
        parts = {
            "task_loss": self.compute_loss(
                x=x, y=y, y_pred=learned["logits"], sample_weight=sample_weight, training=True
            ),
            **self.distillation_losses(learned, taught, sample_weight),
        }
        if "kd" in self.distillation_weights:
            parts["kd"] = self.soft_label_kl(taught["logits"], learned["logits"], sample_weight)
        total = self.task_weight * parts["task_loss"]
        for name in self.distillation_weights:
            total = total + self.distillation_weight(name) * parts[name]
        return total, parts

    def distillation_weight(self, name):
        """Weight of a distillation loss in the step that runs; a method may let it grow."""
        return self.distillation_weights[name]

    def track_losses(self, parts, x, replicas=1):
        """Update the running means of the named losses of an epoch.

        Args:
            parts: Scalars by name.
            x: The batch, for its size.
            replicas: Replicas in step; each one's losses are divided by it.
        """
        for name, value in parts.items():
            self.loss_trackers[name].update_state(
                value * replicas, sample_weight=ops.shape(keras.tree.flatten(x)[0])[0]
            )

    def without_training_losses(self, logs):
        """The logs of an evaluation, in which the teacher has no say."""
        return {name: value for name, value in logs.items() if name not in self.loss_trackers}

    def get_config(self):
        return {
            **super().get_config(),
            "student": keras.saving.serialize_keras_object(self.student),
            "task_weight": self.task_weight,
            "kd_weight": self.distillation_weights.get("kd", 0.0),
            "kd_temperature": self.soft_label_kl.temperature,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["student"] = keras.saving.deserialize_keras_object(
            config["student"], custom_objects=custom_objects
        )
        return cls(**config)
