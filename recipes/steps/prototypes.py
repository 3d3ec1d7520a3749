"""The teacher's prototypes of a run, fitted once in the run folder."""

import logging
from dataclasses import replace

import numpy as np

from letkd_keras.commands.run_folder import OtherSettings
from letkd_keras.data import NumberedBatches
from letkd_keras.prototypes import Prototypes, fit_prototypes, remove_workdir
from letkd_keras.recipes.trainings import sharing
from letkd_keras.recipes.trainings.predictions import predicted_classes
from letkd_keras.recipes.workers.ray_workers import RayWorkers

log = logging.getLogger(__name__)


def prototypes_of(experiment, teacher, folder, levels):
    """The teacher's prototypes, fitted once in the folder.

    Args:
        experiment: `Experiment`, prepared.
        teacher: Trained teacher.
        folder: Path of the run folder.
        levels: Levels that are needed.

    Returns:
        `Prototypes`, or `None` if no level is needed.

    Raises:
        ValueError: If `prototypes.npz` is damaged, belongs to another teacher or has other numbers
            of templates, or if `prototypes.work` has an interrupted fit with other settings.
    """
    if not levels:
        return None
    file, work = folder / "prototypes.npz", folder / "prototypes.work"
    if file.exists():
        prototypes = _read(experiment, teacher, levels, file)
        if set(levels) <= set(prototypes.levels):
            log.info("reusing %s", file.name)
            if "intermediate" in prototypes.levels:
                # All levels are fitted: what is there is the rest of an interrupted removal.
                remove_workdir(work)
            return prototypes
    log.info("fitting prototypes")
    try:
        prototypes = _fit(experiment, teacher, levels, work)
    except OtherSettings as error:
        raise ValueError(
            f"{work} has an interrupted fit of prototypes with other settings: {error.differing}. "
            f"Delete {work} and run the same command again: the prototypes are then fitted from "
            "the beginning, and all trainings are kept."
        ) from error
    prototypes.save(file)
    remove_workdir(work)
    return prototypes


def _read(experiment, teacher, levels, file):
    try:
        prototypes = Prototypes.load(file)
        prototypes.check_teacher(teacher)
        _check_numbers(experiment, prototypes, levels)
    except ValueError as error:
        raise ValueError(
            f"{str(error).rstrip('.')}. Delete {file.name} and run the same command again: the "
            "prototypes are then fitted again, and all trainings are kept."
        ) from error
    return prototypes


def _fit(experiment, teacher, levels, workdir):
    data, network = with_teachers_classes(experiment.data, teacher), experiment.teacher
    return fit_prototypes(
        teacher,
        NumberedBatches(data, 256, "train"),
        levels=tuple(levels),
        templates=experiment.templates,
        subclasses=experiment.subclasses,
        components=experiment.components,
        iterations=experiment.iterations,
        memory=experiment.memory,
        feature_cache=experiment.feature_cache,
        seed=experiment.seed,
        penultimate_layer=network.penultimate_layer,
        intermediate_layer=network.intermediate_layer if "intermediate" in levels else None,
        pool_size={level: experiment.pool_sizes[level] for level in levels},
        data_name=f"{data.name} ({data.split})",
        class_names=data.class_names,
        workdir=workdir,
        **_engine(),
    )


def _check_numbers(experiment, prototypes, levels):
    for level in set(levels) & set(prototypes.levels):
        templates, expected = getattr(prototypes, level).templates, experiment.templates_of(level)
        if templates != expected:
            raise ValueError(
                f"The prototypes must have {expected} {level} templates. "
                f"Received: {templates} in prototypes.npz"
            )


def with_teachers_classes(data, teacher):
    """The data with the teacher's class for each training image that has no label.

    Args:
        data: `Dataset`.
        teacher: Trained teacher.

    Returns:
        The data set.
    """
    if not data.unlabelled_examples:
        return data
    log.info("the teacher classifies %d images without a label", data.unlabelled_examples)
    known = np.asarray(data.y_train) >= 0
    labels = np.where(known, data.y_train, predicted_classes(teacher, data, "train"))
    return replace(data, y_train=labels)


def _engine():
    """The options of `fit_prototypes` with which Ray's workers share its passes."""
    group = sharing.current()
    return {"engine": "ray", "workers": group.devices} if isinstance(group, RayWorkers) else {}
