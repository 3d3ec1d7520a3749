"""The student as one functional model, from everything that `export_student` accepts."""

from pathlib import Path

import keras

import letkd_keras
from letkd_keras.export.student_folder import find_student
from letkd_keras.functional.graph import flatten
from letkd_keras.functional.graph_copy import copy_with
from letkd_keras.functional.loading import load_model
from letkd_keras.functional.lora import without_lora
from letkd_keras.functional.onnx_file import check_no_onnx
from letkd_keras.functional.quantization_aware_copy import without_fake_quantization
from letkd_keras.functional.softmax_removal import remove_softmax


def load_student(model):
    """Load the student and make it one functional model from images to logits.

    Args:
        model: A distiller (anything with a `.student`), a functional or sequential `keras.Model`, a
            `.keras` file of either, the run folder of a recipe, the folder of one training, or the
            folder of a sweep.

    Returns:
        A functional `keras.Model` without models inside. It returns logits, even if `model` ends in
        a softmax, and has no fake quantization (`letkd_keras.quantization_aware`). The matrices of
        LoRA (`enable_lora`) are added to the kernels. It is a copy if `model` has one of these two,
        and a copy in float32 if `model` takes images of another type or computes in another one.
        Otherwise it shares the weights of `model`.

    Raises:
        FileNotFoundError: If a path does not exist or its folder contains no student.
        ValueError: If it is not a model, is not built, is not a functional classifier with one
            input and one output, or has parts of an ONNX file.
    """
    if isinstance(model, str | Path):
        model = _load(Path(model))
    student = getattr(model, "student", model)
    if isinstance(student, keras.Model) and not student.built:
        raise ValueError(
            "`model` must be built, so that its weights exist: call it on a batch or give it an "
            f"Input. Received: model={student.name!r}, which is not built"
        )
    student = flatten(without_lora(without_fake_quantization(remove_softmax(student))))
    check_no_onnx(student, "model")
    dtypes = {student.inputs[0].dtype, *(layer.compute_dtype for layer in student.layers)}
    if dtypes != {"float32"}:
        # A student of uint8 images, or trained in mixed precision, is exported in float32.
        student = copy_with(student, dtype="float32")
    return student


def _load(path):
    if not path.exists():
        raise FileNotFoundError(
            f"`model` must be an existing .keras file or run folder. Received: model={str(path)!r}"
        )
    # A command imports the package piece by piece. Keras finds the classes of a file, which may be
    # a distiller, only once all of them are imported.
    for name in letkd_keras.__all__:
        getattr(letkd_keras, name)
    return load_model(find_student(path) if path.is_dir() else path, "model")
