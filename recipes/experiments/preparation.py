"""What happens to an experiment before any training: checks, layers, fingerprints and sizes."""

import logging
from dataclasses import replace

import numpy as np

from letkd_keras.commands.option_types import option_of
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.distillers import Distiller, HintedLetKD, LetKD
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.functional.onnx_file import check_no_onnx, first_onnx_layer
from letkd_keras.levels import LEVELS
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.recipes.experiments import methods, sizes
from letkd_keras.recipes.experiments.model_of_method import build
from letkd_keras.recipes.experiments.networks import grid, pool_size
from letkd_keras.recipes.experiments.options import OF_KD_LAYERS, OF_PROTOTYPES
from letkd_keras.recipes.trainings import gpus, sharing
from letkd_keras.recipes.trainings.training_data import balanced_class_weights, few_for_students

log = logging.getLogger(__name__)


def prepare(experiment):
    """Check an experiment, and resolve layers and fingerprints, before any training.

    Where a network has no intermediate layer, letKD-1 takes the place of letKD-2.

    Args:
        experiment: `Experiment`.

    Returns:
        `Experiment` with the layers of both networks, their fingerprints, sizes and pool sizes, and
        as many templates as its budget allows.

    Raises:
        ValueError: If something does not fit.
        FileNotFoundError: If the file of a network does not exist.
    """
    _check_without_networks(experiment)
    opened_teacher = experiment.teacher.open(experiment.data, "teacher")
    opened_student = experiment.student.open(experiment.data, "student")
    teacher, student = opened_teacher.model, opened_student.model
    check_no_onnx(student, "student")
    experiment = replace(
        experiment,
        teacher=replace(experiment.teacher, trained=opened_teacher.trained),
        student=replace(experiment.student, trained=opened_student.trained),
    )
    _check_fine_tuning(experiment, teacher)
    _check_warm_up(experiment)
    _warn_about_options(experiment)
    _warn_about_pixels(experiment, teacher)
    needed = methods.layers_of(experiment.methods)
    experiment = replace(
        experiment,
        teacher=experiment.teacher.with_layers(teacher, "teacher", bool(needed)),
        student=experiment.student.with_layers(student, "student", bool(needed)),
    )
    if needed:
        experiment = _with_possible_methods(experiment)
        for role, network, model in (
            ("teacher", experiment.teacher, teacher),
            ("student", experiment.student, student),
        ):
            log.info("layers of the %s %s: %s", role, network.label, network.describe(model))
    _check_kd_layers(experiment, student)
    pool_sizes = _pool_sizes(experiment, teacher, student)
    experiment = replace(experiment, pool_sizes=pool_sizes)
    experiment = sizes.within_budget(experiment, student)
    if experiment.levels:
        _check_templates(experiment, teacher, pool_sizes["penultimate"])
    if "intermediate" in pool_sizes:
        try:
            _check_subclasses(experiment, teacher, pool_sizes["intermediate"])
        except ValueError:
            if "intermediate" in experiment.levels:
                raise
            # A grid fits prototypes of all levels that have a pool size.
            others = {level: pool_sizes[level] for level in pool_sizes if level != "intermediate"}
            experiment = replace(experiment, pool_sizes=others)
    _check_methods(experiment, teacher, student)
    return replace(experiment, sizes=sizes.measure(experiment, teacher, student))


def _check_without_networks(experiment):
    """Check what can be checked before the networks are opened."""
    _check_methods_that_need_rows(experiment.methods, experiment.data)
    if experiment.data.num_classes < 3:
        _check_standardized(experiment.methods)
    if experiment.quantization_aware_schedule is not None:
        _check_quantization_aware(experiment.methods)
    _check_batch_sizes(experiment)
    # All trainings have the same one.
    _check_clip_norm(experiment.student_schedule.clip_norm)
    if experiment.student_examples is not None:
        few_for_students(experiment.data, experiment.student_examples, experiment.spec.seed)
    if experiment.data.unlabelled_examples:
        _check_unlabelled(experiment)
        _warn_about_classifiers(experiment)
    if experiment.class_weights is not None:
        balanced_class_weights(experiment.data)


def _check_methods_that_need_rows(names, data):
    """Refuse methods that compare each image with all others where that cannot be done."""
    for name in names:
        method, _ = methods.parse(name)
        if not method.needs_rows:
            continue
        if not data.in_memory:
            raise ValueError(
                f"{name} compares each image with all others: its data must be in memory. "
                f"Received: {data.name}, which is read from disk"
            )
        if data.unlabelled_examples:
            raise ValueError(
                f"{name} compares images of different classes: all training images must have "
                f"labels. Received: {data.unlabelled_examples} images without a label"
            )
        if sharing.current() is not None:
            raise ValueError(
                f"{name} must be trained without workers, since its memory banks are of one "
                f"process. Received: workers, devices={sharing.devices()}"
            )
        if gpus.used_together() > 1:
            raise ValueError(
                f"{name} must be trained on one GPU, since its memory banks are of one device: set "
                f"CUDA_VISIBLE_DEVICES to one of them. Received: {gpus.used_together()} GPUs"
            )


def _check_standardized(names):
    """Refuse losses on standardized logits, which are the same for every image of two classes."""
    for name in names:
        method, added = methods.parse(name)
        for loss in (*method.logit_losses, *added):
            if LOGIT_LOSSES[loss].settings().get("standardize_logits"):
                raise ValueError(
                    f"{name} standardizes logits, which needs three classes or more: use "
                    f"{name.replace('-ls', '')}. Received: data of two classes"
                )


def _check_quantization_aware(names):
    """Refuse methods that train something beside the student or change it.

    Under fake quantization they would have to start that again.
    """
    usable = (None, Distiller, LetKD)
    for name in names:
        if methods.parse(name)[0].distiller_class not in usable:
            rows = [
                row for row in methods.names() if methods.parse(row)[0].distiller_class in usable
            ]
            raise ValueError(
                "`quantization_aware_epochs` is for the student alone, losses on logits and letKD: "
                f"{', '.join(rows)}. Received: methods with {name}"
            )


def _check_batch_sizes(experiment):
    labelled = experiment.data.labelled().train_examples
    trainings = [(schedule, labelled) for schedule in experiment.teacher_phases.values()]
    trainings += [(experiment.student_schedule, experiment.data.train_examples)]
    for schedule, examples in trainings:
        if schedule.batch_size > examples:
            what = "training images"
            if examples < experiment.data.train_examples:
                what += " with a label, which train the teacher"
            raise ValueError(
                f"`batch_size` must be at most the {examples} {what}. "
                f"Received: batch_size={schedule.batch_size}"
            )
        if schedule.batch_size % sharing.devices():
            raise ValueError(
                f"`batch_size` must be a multiple of the {sharing.devices()} devices of all "
                f"workers. Received: batch_size={schedule.batch_size}"
            )


def _check_clip_norm(clip_norm):
    """Refuse to clip a gradient that no device sees as a whole."""
    if clip_norm is None:
        return
    if sharing.devices() > 1:
        raise ValueError(
            "`clip_norm` cannot be used by several workers, each of which would clip its own part "
            f"of the gradient. Received: clip_norm={clip_norm}"
        )
    if gpus.used_together() > 1:
        raise ValueError(
            "`clip_norm` cannot be used on several GPUs, each of which would clip its own part of "
            "the gradient: set CUDA_VISIBLE_DEVICES to one of them. "
            f"Received: clip_norm={clip_norm} with {gpus.used_together()} GPUs"
        )


def _check_fine_tuning(experiment, teacher):
    """Refuse epochs in which a teacher of an ONNX file would stay as it is."""
    schedule = experiment.teacher_phases.get("fine_tune_schedule")
    if schedule and first_onnx_layer(teacher) is not None:
        raise ValueError(
            "`fine_tune_epochs` must be 0 for a teacher of an ONNX file, which cannot be trained. "
            f"Received: fine_tune_epochs={schedule.epochs} with {experiment.teacher.label}"
        )


def _check_warm_up(experiment):
    """Refuse a warm-up that is as long as the training, of the trainings that there will be."""
    for whose, schedule in (
        ("teacher", experiment.teacher_phases.get("teacher_schedule")),
        ("student", experiment.student_schedule),
    ):
        if schedule:
            schedule.check_warm_up(whose)


def _warn_about_options(experiment):
    """Warn about options that have no effect on this teacher, or without KD layers."""
    phases = experiment.teacher_phases
    if "teacher_schedule" in phases:
        why = dict.fromkeys(("head_epochs", "fine_tune_epochs"), "has no trained weights")
    else:
        why = {"teacher_epochs": "is trained already"}
        if "fine_tune_schedule" not in phases:
            why["teacher_learning_rate"] = "is trained already"
        if "head_schedule" not in phases:
            why["head_epochs"] = "needs no new head"
    for name in experiment.typed:
        if name in why:
            option, teacher = option_of(name), experiment.teacher.label
            log.warning("%s has no effect: the teacher %s %s.", option, teacher, why[name])
    if not methods.layers_of(experiment.methods):
        for name in experiment.typed:
            if name in (*OF_PROTOTYPES, *OF_KD_LAYERS):
                option, names = option_of(name), ", ".join(experiment.methods)
                log.warning("%s has no effect: students by %s have no KD layers.", option, names)


def _warn_about_pixels(experiment, teacher):
    """Warn that a teacher of an ONNX file may have been trained on pixels of another scale."""
    if experiment.teacher.pixels is None and first_onnx_layer(teacher) is not None:
        log.warning(
            "The teacher %s gets the pixels as --pixels scales them. If it was trained on another "
            "scale, give --teacher-pixels: imagenet for most models of PyTorch.",
            experiment.teacher.label,
        )


def _check_unlabelled(experiment):
    if experiment.class_weights is not None:
        raise ValueError(
            "`class_weights` need labels of all training images. Received: "
            f"class_weights={experiment.class_weights} with "
            f"{experiment.data.unlabelled_examples} images without a label"
        )
    if mixes_labels(experiment.augmentation):
        raise ValueError(
            "`augment` must not mix labels where training images have none. "
            f"Received: augment={' '.join(experiment.augmentation['policies'])}"
        )


def _warn_about_classifiers(experiment):
    """Warn about methods whose classifier learns nothing from images without a label."""
    labelled = experiment.data.labelled().train_examples
    for name in experiment.methods:
        if methods.only_labels_train_classifier(name):
            log.warning(
                "%s has no loss on the logits, so only the %d images with a label train the "
                "student's classifier. %s+dkd has one.",
                name,
                labelled,
                name,
            )


def _with_possible_methods(experiment):
    """The same experiment with letKD-1 for letKD-2 where an intermediate layer is missing."""
    missing = dict.fromkeys(
        network.title
        for network in (experiment.teacher, experiment.student)
        if network.intermediate_layer is None
    )
    if not missing:
        return experiment
    names = tuple(
        dict.fromkeys(methods.without_intermediate_level(name) for name in experiment.methods)
    )
    if names == experiment.methods:
        return experiment
    log.warning(
        "%s %s no intermediate layer that could be suggested, so letkd1 is used in place of "
        "letkd2.",
        " and ".join(missing),
        "have" if len(missing) > 1 else "has",
    )
    export_method = experiment.export_method
    if export_method is not None:
        export_method = methods.without_intermediate_level(export_method)
    return replace(experiment, methods=names, export_method=export_method)


def _pool_sizes(experiment, teacher, student):
    """The window of each level for which both networks have a layer, whatever the methods are."""
    pool_sizes = {}
    for level in LEVELS:
        layers = experiment.teacher.layer(level), experiment.student.layer(level)
        if None not in layers:
            try:
                pool_sizes[level] = pool_size(teacher, layers[0], student, layers[1], level)
            except ValueError:
                if level in experiment.levels:
                    raise
    return pool_sizes


def _check_methods(experiment, teacher, student):
    """Refuse methods that do not fit the networks, by building those that need no prototypes."""
    own = replace(experiment, data=experiment.student_data)
    for name in experiment.methods:
        method, _ = methods.parse(name)
        hinted = method.distiller_class is HintedLetKD
        if method.levels and not hinted:
            continue  # their layers are checked
        try:
            # The hint of HintedLetKD is that of FitNet, which needs no prototypes.
            build("fitnet" if hinted else name, teacher, student, None, own)
        except ValueError as error:
            raise ValueError(f"{name} does not fit these networks: {error}") from error


def _check_kd_layers(experiment, student):
    """Refuse a student that has KD layers already where the methods insert theirs."""
    # One with alpha 0 is inserted, too, and left out of the export.
    rows = [methods.parse(name)[0] for name in experiment.methods]
    inserted = {f"kd_{level}" for row in rows for level in (*row.levels, *row.layers)}
    present = [name for name in kd_layers_of(student) if name in inserted]
    if present:
        raise ValueError(
            "`student` must have no KD layers where a method inserts them: train it further by a "
            f"method without KD layers, such as kd. Received: student={experiment.student.name!r} "
            f"with {', '.join(present)}"
        )


def _check_templates(experiment, teacher, window):
    height, width = grid(teacher, experiment.teacher.penultimate_layer)
    points = experiment.data.train_examples * (height // window) * (width // window)
    if points < experiment.templates:
        raise ValueError(
            f"`templates` must be at most the {points} feature vectors of the training set. "
            f"Received: templates={experiment.templates}{_limit_of_growth(experiment, 'templates')}"
        )


def _check_subclasses(experiment, teacher, window):
    if not experiment.data.in_memory:
        return  # images on disk; the fit of the prototypes counts them
    height, width = grid(teacher, experiment.teacher.intermediate_layer)
    labels = experiment.data.labelled().y_train
    images = np.bincount(labels, minlength=experiment.data.num_classes)
    if not images.all():
        missing = experiment.data.class_names[int(np.argmin(images))]
        raise ValueError(
            "`data` must have a training image with a label of each class for prototypes of the "
            f"intermediate level. Received: data={experiment.data.name!r} with none of {missing!r}"
        )
    points = int(images.min()) * (height // window) * (width // window)
    if points < experiment.subclasses:
        raise ValueError(
            f"`subclasses` must be at most the {points} feature vectors of the smallest class. "
            f"Received: subclasses={experiment.subclasses}"
            f"{_limit_of_growth(experiment, 'subclasses')}"
        )


def _limit_of_growth(experiment, option):
    """The end of an error for a number that `--growth` chose."""
    return "" if experiment.growth is None else f", which --growth allows and --{option} can limit"
