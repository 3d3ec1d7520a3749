import contextlib
from pathlib import Path

import keras
from keras import ops

from letkd_keras.distillers import logit_losses_argument
from letkd_keras.distillers.compatibility import (
    check_teacher_stays,
    matching_models,
    warn_about_augmentation,
)
from letkd_keras.distillers.feature_layers import compared_layers, layer_names
from letkd_keras.distillers.feature_maps import channels_last, channels_last_shape
from letkd_keras.distillers.layer_outputs import LayerOutputs, images_of
from letkd_keras.distillers.training_arguments import (
    check_class_weight,
    check_images_and_labels,
    check_loss,
    check_metrics,
    check_sample_weight,
    check_suits_labels,
    expected_labels,
    label_out_of_range,
)
from letkd_keras.distillers.unlabelled import (
    complete_labels,
    labelled,
    mean_over_labelled,
    weighted,
)
from letkd_keras.functional.graph import flatten
from letkd_keras.functional.loading import load_model
from letkd_keras.losses.loss import ScalarLoss
from letkd_keras.precision import dtype_policy
from letkd_keras.ranges import non_negative_integer, non_negative_number

if keras.backend.backend() == "tensorflow":
    from letkd_keras.distillers.tensorflow_step import TrainStep
elif keras.backend.backend() == "jax":
    from letkd_keras.distillers.jax_step import TrainStep
else:
    raise ImportError(
        "letkd_keras trains on TensorFlow or JAX: set KERAS_BACKEND to tensorflow or jax. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}"
    )


@keras.saving.register_keras_serializable("letkd_keras")
class Distiller(TrainStep, keras.Model):
    """Base of all distillers: one run of the teacher, one run of the student, named losses.

        loss = task_weight * task loss + sum of weight * distillation loss + regularizers

    Call `compile` and `fit` as for any Keras model. `evaluate`, `predict` and a call of the
    distiller run only the student. `student` is the model to save and export.

    A method is a subclass. It names layers of both models, makes what it trains beside the student
    (its *adapters*) from `student_shapes` and `teacher_shapes` after this constructor, and
    overrides `compute_distillation_losses`. A method that needs more than the outputs of layers
    overrides `compute_teacher_outputs` or `compute_student_outputs` too. The constructor builds the
    adapters with `layer.build(shape)`, since a layer that gets its weights in the first step is
    neither in the optimizer nor in a loaded distiller. Adapters are trained and saved with the
    distiller; `student` never has them.

    An image with the label -1 has no label. It counts in all distillation losses, but not in the
    task loss, which is the mean over the labelled images of the batch (of each replica), and 0 if
    there are none. A distillation loss that needs a label uses the teacher's class. In evaluation,
    images without labels do not count in the task loss either. Metrics leave such images out only
    if they are given to `compile` as `weighted_metrics`. Metrics see logits.

    The logs of `fit` have `loss` (what is minimized), `task_loss` (the compiled loss) and every
    distillation loss under its own name, without its weight. Regularizers, of the student and of
    what is trained beside it, are part of `loss` alone, with weight 1. In evaluation `loss` is the
    task loss plus the regularizers.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits or softmax
            probabilities. It stays frozen, in inference mode, and outside the distiller's weights
            and checkpoints; a whole `.keras` file of the distiller has it. Layers that it shares
            with the student must stay frozen. `None` only where a distiller is rebuilt from its
            configuration: it can then not be trained.
        student: Functional or sequential `keras.Model` from the same images to logits, or softmax
            probabilities, of the same classes. It is trained in place. A softmax at its end is
            removed: `student` of the distiller is then a model without it, which shares the weights
            (`letkd_keras.remove_softmax`).
        student_layers: Names of layers of the student whose outputs are compared, in order, or one
            name. `None` for those that the method suggests by its `suggested_layers`, if any.
        teacher_layers: As many of the teacher, likewise.
        teacher_shapes: Shapes of the outputs of `teacher_layers`, channels last, without the batch
            dimension; needed only without a teacher.
        loss_weights: Names of the method's losses and their weights.
        task_weight: Weight of the task loss; regularizers always have weight 1.
        logit_losses: Losses on the logits in addition to the method's own:
            `{"dkd": (loss, weight)}`, with a `keras.losses.Loss` that is called as
            `loss((teacher_logits, labels), student_logits, sample_weight)`, such as
            `letkd_keras.losses.logit_loss("dkd")`, or a `keras.distillation.LogitsDistillation`.
        warm_up_steps: Number of steps in which the weights of `logit_losses` grow linearly to their
            full values; 0 for none. The optimizer counts the steps, so that a `compile` with a new
            optimizer starts the growth again.
        **kwargs: Keras' model arguments.

    Attributes:
        student_shapes: Shapes of the outputs of `student_layers`, like `teacher_shapes`.
        distillation_weights: All distillation losses' weights by name.

    Raises:
        ValueError: If teacher and student do not fit each other, a layer does not exist, the
            numbers of layers differ, or a weight is negative or not finite.
    """

    # Whether the method can be trained on images without labels.
    takes_unlabelled = True
    # Which layers are compared if none are given: "all", "second", "last" or "penultimate", as in
    # `compared_layers`; `None` for no layers.
    suggested_layers = None

    def __init__(
        self,
        teacher,
        student,
        *,
        student_layers=None,
        teacher_layers=None,
        teacher_shapes=(),
        loss_weights=None,
        task_weight=1.0,
        logit_losses=None,
        warm_up_steps=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # What is made without a dtype, such as adapters, takes this policy, whatever `dtype` is.
        self._made_under = keras.config.dtype_policy()
        teacher, self.student = matching_models(teacher, student)
        if self.suggested_layers is not None:
            teacher_layers, student_layers = compared_layers(
                teacher, self.student, teacher_layers, student_layers, self.suggested_layers
            )
        self.student_layers = layer_names(student_layers or ())
        self.teacher_layers = layer_names(teacher_layers or ())
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                "`student_layers` and `teacher_layers` must be of the same length. "
                f"Received: {self.student_layers} and {self.teacher_layers}"
            )
        self.student_graph = LayerOutputs(self.student, self.student_layers, "student_layers")
        self.student_shapes = _channels_last_shapes(self.student_graph)
        self.teacher_shapes = tuple(tuple(shape) for shape in teacher_shapes)
        self.teacher_graph = None
        if teacher is not None:
            check_teacher_stays(teacher, self.student)
            self._set_teacher(teacher)
            if self.student_layers:
                warn_about_augmentation(self.student)

        loss_weights = {
            name: non_negative_number.check(weight, f"weight of {name}")
            for name, weight in (loss_weights or {}).items()
        }
        self.logit_losses, weights = logit_losses_argument.check(logit_losses, tuple(loss_weights))
        self.warm_up_steps = non_negative_integer.check(warm_up_steps, "warm_up_steps")
        self.task_weight = non_negative_number.check(task_weight, "task_weight")
        self.scalar_loss = ScalarLoss(name="scalar_loss")
        self.distillation_weights = {**loss_weights, **weights}
        self.loss_trackers = {
            name: keras.metrics.Mean(name=name)
            for name in ("task_loss", *self.distillation_weights)
        }
        self.built = True

    def _set_teacher(self, teacher):
        # LayerOutputs hides the teacher from Keras. A property would not do: Keras saves the
        # weights of every model that it finds as an attribute.
        self.teacher_graph = LayerOutputs(teacher, self.teacher_layers, "teacher_layers")
        self.teacher_shapes = _channels_last_shapes(self.teacher_graph)
        # Keras asks each layer, and does not see those of the teacher.
        self.supports_jit = all(layer.supports_jit for layer in flatten(teacher).layers)

    # What a method overrides

    def compute_teacher_outputs(self, x, y):
        """What the teacher supervises a batch with. It runs outside the gradient.

        Args:
            x: Images.
            y: Labels; -1 for an image without one, see `letkd_keras.distillers.unlabelled`.

        Returns:
            Dictionary of `"logits"` and `"features"`, the outputs of `teacher_layers`.

        Raises:
            ValueError: If there is no teacher, or the student would train weights of it.
        """
        if self.teacher_graph is None:
            raise ValueError(
                f"This {type(self).__name__} has no teacher, since it was rebuilt from its "
                "configuration. Load it from a whole `.keras` file, or make one with a teacher."
            )
        check_teacher_stays(self.teacher_graph.model, self.student)
        return self.teacher_graph(x, training=False)

    def compute_student_outputs(self, x):
        """The student's outputs in training mode.

        Args:
            x: Images.

        Returns:
            Dictionary of `"logits"` and `"features"`, the outputs of `student_layers`.
        """
        return self.student_graph(x, training=True)

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        """The method's own losses.

        Args:
            student_outputs: What `compute_student_outputs` returns.
            teacher_outputs: What `compute_teacher_outputs` returns.
            sample_weight: Weights of the images, [B], or `None`.

        Returns:
            Dictionary of scalars with exactly the names of `loss_weights`, each from a
            `keras.losses.Loss`, which divides by the number of replicas.
        """
        return {}

    def feature_pairs(self, student_outputs, teacher_outputs):
        """The outputs of the layers in order, a list of (student's, teacher's), channels last."""
        pairs = zip(student_outputs["features"], teacher_outputs["features"], strict=True)
        return [tuple(channels_last(features) for features in pair) for pair in pairs]

    # What Keras asks of a model

    def fit(self, x=None, y=None, *args, **kwargs):
        """Train as every Keras model; NumPy arrays are checked before.

        Arrays are `x` and `y`, or the first batch of a `keras.utils.PyDataset`, which is read once
        more. JAX finds no wrong label in other batches: the task loss of such an image is 0.

        Raises:
            ValueError: If `y` is not one array, images in an array are not finite, labels in an
                array are not the student's classes, or -1, TensorFlow finds another label in a
                batch, `class_weight` is no dictionary from classes to weights or meets the label -1
                in a `tf.data.Dataset`, or as `compute_loss`.
        """
        check_class_weight(kwargs.get("class_weight"), self._classes)
        if y is not None:
            self.check_labels(y)
        check_images_and_labels(x, y, self._classes, self.takes_unlabelled)
        try:
            return super().fit(x, y, *args, **kwargs)
        except Exception as error:
            # TensorFlow names neither the argument nor the labels.
            if kwargs.get("class_weight") and "= -1 is not in [0" in str(error):
                raise ValueError(
                    "`class_weight` must not be given with a tf.data.Dataset that has the label "
                    "-1, for which Keras has no weight: give weights as the third part of the data "
                    f"set. Received: class_weight={kwargs['class_weight']}"
                ) from error
            label = label_out_of_range(error, self._classes)
            if label is not None:
                expected = expected_labels(self._classes, self.takes_unlabelled)
                raise ValueError(f"{expected}. Received: a batch with the label {label}") from error
            raise

    def call(self, inputs, training=None):
        return self.student(images_of(inputs), training=training)

    def export(self, filepath, *args, **kwargs):
        """Export the student (`keras.Model.export`); see also `letkd_keras.export_student`."""
        return self.student.export(filepath, *args, **kwargs)

    def check_labels(self, y):
        """Refuse a batch without labels, or with several kinds of them, or with texts.

        Raises:
            ValueError: If `y` is not one tensor of numbers.
        """
        if y is None or isinstance(y, dict | list | tuple):
            raise ValueError(
                "`y` must be one tensor of labels, -1 for images without one. "
                f"Received: y={None if y is None else type(y).__name__}"
            )
        if getattr(getattr(y, "dtype", None), "name", None) == "string":  # of TensorFlow
            expected = expected_labels(self._classes, self.takes_unlabelled)
            raise ValueError(f"{expected}. Received: labels of type string")

    def compute_output_shape(self, input_shape):
        return self.student.compute_output_shape(images_of(input_shape))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The compiled loss, over the images with a label, plus the regularizers.

        Keras calls this in evaluation, and `compute_total_loss` in training.

        Raises:
            ValueError: If the compiled loss is a dictionary, is a cross-entropy of probabilities or
                of another kind of labels, or rounds labels, `y` is not one tensor, or
                `sample_weight` is neither [B] nor [B, 1].
        """
        self.check_labels(y)
        check_sample_weight(sample_weight, y)
        # Not in `compile`: Keras loads a model that has a `compile` of its own without its
        # optimizer and loss.
        if self.compiled:
            check_loss(self.loss, self._classes)
            check_suits_labels(self.loss, y, self._classes)
        return super().compute_loss(
            x=x,
            y=self._valid_labels(y),
            y_pred=y_pred,
            sample_weight=mean_over_labelled(y, self._classes, sample_weight),
            training=training,
        )

    def compute_total_loss(self, x, y, student_outputs, teacher_outputs, sample_weight=None):
        """The loss of a training step and its named parts.

        Returns:
            `(total, parts)`: a scalar, and a dictionary of unweighted scalars.

        Raises:
            ValueError: If the compiled loss is no scalar, `compute_distillation_losses` returns no
                scalars, or others than those of `loss_weights`, or as `compute_loss`.
        """
        check_sample_weight(sample_weight, y)
        logits = student_outputs["logits"]
        # First, since the regularizers of its layers are known only after it.
        own = self.compute_distillation_losses(student_outputs, teacher_outputs, sample_weight)
        names = [name for name in self.distillation_weights if name not in self.logit_losses]
        _check_losses(own, names)
        # Without `training`, which Keras allows an override of this method not to have.
        task_loss = self.compute_loss(x=x, y=y, y_pred=logits, sample_weight=sample_weight)
        if _rank(task_loss):
            raise ValueError(
                "`loss` of `compile` must have a reduction, so that it is a scalar. "
                f"Received: a loss of shape {tuple(task_loss.shape)}"
            )
        # As they are in `compute_loss`, divided by the number of replicas.
        regularizers = sum(self.scalar_loss(0.0, ops.sum(loss)) for loss in self.losses)
        task_loss = task_loss - regularizers
        y = complete_labels(y, teacher_outputs["logits"])
        parts = {"task_loss": task_loss, **own}
        for name, loss in self.logit_losses.items():
            parts[name] = loss((teacher_outputs["logits"], y), logits, sample_weight)
        total = self.task_weight * task_loss + regularizers
        for name, weight in self.distillation_weights.items():
            value = weight * parts[name]
            if name in self.logit_losses and self.warm_up_steps:
                step = ops.cast(self.optimizer.iterations, value.dtype) + 1.0
                value = value * ops.minimum(step / self.warm_up_steps, 1.0)
            total = total + value
        return total, parts

    @contextlib.contextmanager
    def all_layers_built(self):
        """Refuse layers that get weights in a step (the steps call this).

        Raises:
            ValueError: If there is one.
        """
        before = {id(layer): len(layer.weights) for layer in self.layers}
        yield
        for layer in self.layers:
            # A layer may also be made in the step.
            if len(layer.weights) > before.get(id(layer), 0):
                raise ValueError(
                    f"The layer {layer.name!r} of {type(self).__name__} must be built in the "
                    "constructor by `layer.build(shape)`, so that the optimizer has its weights. "
                    f"Received: {layer!r}, which was built in a training step"
                )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Update the metrics (Keras calls this); images without a label have weight 0.

        Raises:
            ValueError: If a compiled metric takes probabilities or has the name of a loss, or `y`
                is not one tensor.
        """
        self.check_labels(y)
        mask = labelled(y, self._classes)
        try:
            return super().compute_metrics(
                x, self._valid_labels(y), y_pred, weighted(mask, sample_weight)
            )
        finally:
            # Not earlier: in their first update Keras makes the compiled metrics from their names.
            # Also after an error: on JAX some metrics of probabilities take no integer labels.
            compiled = [each for group in self.metrics for each in getattr(group, "metrics", ())]
            check_metrics(compiled, tuple(self.loss_trackers))

    def _valid_labels(self, y):
        """Labels with class 0 for images without one, whose weight is 0 where this is used."""
        # Whatever a loss or a metric makes of class 0 has no weight, but must be finite.
        return y if labelled(y, self._classes) is None else ops.maximum(y, 0)

    @property
    def _classes(self):
        return self.student.outputs[0].shape[-1]

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
        """The logs of an evaluation, in which no distillation loss is computed."""
        return {name: value for name, value in logs.items() if name not in self.loss_trackers}

    # Saving

    def save(self, filepath, *args, **kwargs):
        """Save all, with the teacher, in a `.keras` file (`keras.Model.save`).

        Raises:
            ValueError: If the file is an HDF5 file, which cannot have the teacher.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "`filepath` must end in .keras, since an HDF5 file would not have the teacher; "
                "`save_weights` takes .weights.h5, and `student.save` takes .h5. "
                f"Received: filepath={str(filepath)!r}"
            )
        return super().save(filepath, *args, **kwargs)

    def get_config(self):
        return {
            **super().get_config(),
            "student": keras.saving.serialize_keras_object(self.student),
            "student_layers": self.student_layers,
            "teacher_layers": self.teacher_layers,
            "teacher_shapes": self.teacher_shapes,
            "task_weight": self.task_weight,
            "logit_losses": logit_losses_argument.serialize(
                self.logit_losses, self.distillation_weights
            ),
            "warm_up_steps": self.warm_up_steps,
            "made_under": keras.dtype_policies.serialize(self._made_under),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        with dtype_policy(keras.dtype_policies.get(config.pop("made_under", None))):
            config["student"] = keras.saving.deserialize_keras_object(
                config["student"], custom_objects=custom_objects
            )
            if "logit_losses" in config:
                config["logit_losses"] = logit_losses_argument.deserialize(
                    config["logit_losses"], custom_objects
                )
            return cls(teacher=None, **config)

    def save_assets(self, directory):
        """The teacher, in a whole `.keras` file only (Keras calls this)."""
        if self.teacher_graph is not None:
            self.teacher_graph.model.save(Path(directory) / "teacher.keras")

    def load_assets(self, directory):
        """The teacher from a whole `.keras` file (Keras calls this)."""
        path = Path(directory) / "teacher.keras"
        if path.exists():
            try:
                self._set_teacher(load_model(path, "teacher"))
            except (ImportError, ValueError) as error:
                # Not as a note: Keras passes on the text alone.
                raise ValueError(
                    f"{str(error).rstrip('.')}. For layers of your own, load the distiller within "
                    "keras.saving.custom_object_scope({...}); for a Lambda layer, call "
                    "keras.config.enable_unsafe_deserialization() before. Keras applies the "
                    "arguments of load_model to the student alone."
                ) from error


def _check_losses(losses, names):
    """Refuse what is no dictionary of scalars with these names."""
    if not isinstance(losses, dict) or set(losses) != set(names):
        received = list(losses) if isinstance(losses, dict) else losses
        raise ValueError(
            "`compute_distillation_losses` must return a dictionary of the losses of "
            f"`loss_weights`: {names}. Received: {received}"
        )
    for name, loss in losses.items():
        if rank := _rank(loss):
            received = type(loss).__name__ if rank == -1 else f"shape {tuple(loss.shape)}"
            raise ValueError(
                "`compute_distillation_losses` must return scalars. "
                f"Received: {name!r} of {received}"
            )


def _rank(loss):
    """The number of dimensions; `None` where TensorFlow does not know it, -1 of no tensor."""
    return 0 if isinstance(loss, int | float) else getattr(loss, "ndim", -1)


def _channels_last_shapes(outputs):
    return tuple(channels_last_shape(shape) for shape in outputs.shapes)
