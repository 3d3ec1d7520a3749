from pathlib import Path

import keras

from letkd_keras.distillers.distiller import Distiller, FrozenTeacher
from letkd_keras.distillers.feature_maps import channels_last, channels_last_shape
from letkd_keras.distillers.layer_outputs import LayerOutputs


class TeacherDistiller(Distiller):
    """A distiller that compares the student with what the teacher itself puts out.

    Its subclasses are the methods that letKD is measured against. A subclass makes its adapters,
    from `student_shapes` and `teacher_shapes`, after this constructor, and says in
    `distillation_losses(learned, taught, sample_weight)` how far logits and taps differ. Adapters
    are trained and saved with the distiller; `student` never has them.

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes, or
            `None` where the distiller is rebuilt from a whole `.keras` file.
        loss_weights: Names of the distillation losses and their weights.
        student_layers: Layers of the student whose outputs are compared, in order.
        teacher_layers: As many of the teacher.
        teacher_shapes: Shapes of the teacher's taps without the batch dimension, channels last;
            needed only without a teacher.
        **kwargs: `task_weight`, `kd_weight`, `kd_temperature` and Keras' model arguments.

    Attributes:
        student_shapes: Shapes of the student's taps.
        teacher_shapes: Shapes of the teacher's taps.

    Raises:
        ValueError: If the numbers of classes or of taps differ, a tap does not exist or a model is
            not functional.
    """

    def __init__(
        self,
        student,
        teacher,
        loss_weights,
        *,
        student_layers=(),
        teacher_layers=(),
        teacher_shapes=(),
        **kwargs,
    ):
        super().__init__(student, loss_weights, **kwargs)
        self.student_layers, self.teacher_layers = tuple(student_layers), tuple(teacher_layers)
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                "`student_layers` and `teacher_layers` must be as many. "
                f"Received: {self.student_layers} and {self.teacher_layers}"
            )
        self.tapped_student = LayerOutputs(student, _numbered(self.student_layers))
        self.student_shapes = _shapes(self.tapped_student)
        self.teacher_shapes = tuple(tuple(shape) for shape in teacher_shapes)
        self.supervision = None
        if teacher is not None:
            self._set_teacher(teacher)

    def _set_teacher(self, teacher):
        supervision = FrozenTeacher(teacher, _numbered(self.teacher_layers))
        if self.student.output_shape[-1] != teacher.output_shape[-1]:
            raise ValueError(
                "`student` and `teacher` must have the same number of classes. Received: "
                f"{self.student.output_shape[-1]} and {teacher.output_shape[-1]}"
            )
        self.supervision = supervision
        self.teacher_shapes = _shapes(supervision.tapped)

    def teach(self, x, y):
        if self.supervision is None:
            raise ValueError(
                f"This {type(self).__name__} has no teacher. Load it from a whole `.keras` file."
            )
        return {**self.supervision(x), "labels": y}

    def learn(self, x):
        return self.tapped_student(x, training=True)

    def tap_pairs(self, learned, taught):
        """The tapped outputs in order: a list of (student's, teacher's), channels last."""
        return [
            tuple(channels_last(outputs[name]) for outputs in (learned, taught))
            for name in _numbered(self.student_layers)
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "student_layers": self.student_layers,
            "teacher_layers": self.teacher_layers,
            "teacher_shapes": self.teacher_shapes,
        }

    def save_assets(self, directory):
        """The teacher, in a whole `.keras` file only (Keras calls this)."""
        if self.supervision is not None:
            self.supervision.model.save(Path(directory) / "teacher.keras")

    def load_assets(self, directory):
        """The teacher from a whole `.keras` file (Keras calls this)."""
        path = Path(directory) / "teacher.keras"
        if path.exists():
            self._set_teacher(keras.models.load_model(path, compile=False))


def _numbered(taps):
    return {f"tap{number}": tap for number, tap in enumerate(taps)}


def _shapes(tapped):
    return tuple(channels_last_shape(shape) for shape in tapped.shapes.values())
