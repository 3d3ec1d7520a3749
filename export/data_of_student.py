"""The data set that belongs to a student: that of its training, or the one that is named."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from letkd_keras.commands.run_folder import CONFIG, read_config
from letkd_keras.data import DataSpec
from letkd_keras.export.student_folder import SWEEP, run_of, sweep_of
from letkd_keras.shapes import shapes_agree

log = logging.getLogger(__name__)

# Options of `--data` that may be given without it: where a run's data lie now.
_RELOCATIONS = ("data_dir", "image_cache", "labels")
_SELECTIONS = (
    *("image_size", "pixels", "classes", "train_examples", "test_examples"),
    *("validation_fraction", "skip_corrupt"),
)


@dataclass(frozen=True)
class OpenedData:
    """A data set and the settings that open it again.

    Attributes:
        data: `Dataset`.
        config: JSON-like dictionary for `DataSpec.from_config`, with `name` and `digest` besides.
        is_assumed: Whether it is assumed only that the student takes images normalized like these.
    """

    data: object
    config: dict
    is_assumed: bool = False

    def check_is_outside(self, path):
        """Refuse to write into the folders of the images; see `DataSpec.check_is_outside`."""
        DataSpec.from_config(self.config).check_is_outside(path, "out")


def knows_data(model):
    """Whether a file or folder belongs to a run or a sweep that has recorded its data set.

    Raises:
        ValueError: If what was recorded is damaged.
    """
    return _data_config_of(model) is not None


def open_data(model, options, student=None):
    """Open the data set that the command names, otherwise the one that a run was trained on.

    If the command names a new place of the images that a run was trained on, they are opened as in
    the training, with its split and selections; options that are given have priority. Other images
    are opened as the options say, with a warning in the log.

    Without `image_size`, other images of a folder get the size that the student takes.

    The student of a run gets images as in its training, other students as `pixels` says. Without
    `pixels`, a student that rescales pixels itself gets pixels from 0 to 255. Any other is assumed
    to take the mean and standard deviation of the data set, with a warning in the log.

    Args:
        model: What the command was given as the student: a file or a folder.
        options: Parsed options of `letkd_keras.commands.common_options.add_data_options`.
        student: Functional `keras.Model` that was loaded from `model`. `None`: it is not known
            which images it takes.

    Returns:
        `OpenedData`, or `None` if there is no data set.

    Raises:
        ValueError: If the data set of a run has changed since, an option is given that needs
            `--data`, the data cannot be opened, or their images have another shape than the student
            takes, or other classes.
        FileNotFoundError: If the data do not exist there.
    """
    trained = _data_config_of(model)
    moved, given = (
        {name: getattr(options, name) for name in names if getattr(options, name)}
        for names in (_RELOCATIONS, _SELECTIONS)
    )
    if options.data:
        return _open_named(options, trained, moved, given, student)
    for name, value in given.items():
        raise ValueError(
            f"`{name}` needs `data`; without it, the data set of a run folder is opened as in "
            f"training. Received: {name}={value!r}"
        )
    if trained is None:
        for name, value in moved.items():
            raise ValueError(
                f"`{name}` needs `data`, since {str(model)!r} is no run folder, which knows its "
                f"data. Received: {name}={value!r}"
            )
        return None
    spec, data = _open_at_its_place({**trained, **moved})
    if not _are_those_of(trained, spec, data):
        raise ValueError(
            f"The data set {spec.source} has changed since {str(model)!r} was trained on it: its "
            "digest differs from that in config.json. Restore it, or name a data set with `data`."
        )
    return _opened(spec, data)


def _open_named(options, trained, moved, given, student):
    """The data set that `--data` names: the images of the run at another place, or other ones."""
    if trained is not None:
        opened = _open_moved(trained, {**moved, "source": options.data}, given, student)
        if opened is not None:
            return opened
    spec = _sized_for(student, DataSpec.from_options(options))
    is_assumed = trained is None and spec.pixels is None
    if is_assumed and student is not None:
        # Imports Keras, for which `--help` does not wait.
        from letkd_keras.export.input_scaling import takes_pixels

        if takes_pixels(student):
            spec, is_assumed = replace(spec, pixels="0..255"), False
    data = _open_others(trained, spec)
    _check_fit(student, data)
    data = _normalized_as_in(trained, spec, data)
    if is_assumed:
        log.warning(
            "The student is assumed to take images with the mean and standard deviation of "
            "%s; if it was trained on others, give --pixels.",
            data.name,
        )
    if trained is not None:
        log.warning(
            "The images of %s are other ones than those of the run, and its test images may be "
            "among those that the student was trained on.",
            options.data,
        )
    return replace(_opened(spec, data), is_assumed=is_assumed)


def _open_at_its_place(config):
    """The `DataSpec` and the data of a run, or a sentence that says what to do if they moved."""
    try:
        spec = _spec_of_run(config)
        return spec, spec.open()
    except (ValueError, FileNotFoundError) as error:
        source = str(config.get("source"))
        place = Path(source.partition(":")[2] or source)
        if not place.is_absolute() or place.exists():  # a name, or another reason
            raise
        labels = " (and that of the labels with --labels)" if config.get("labels") else ""
        raise FileNotFoundError(
            f"The images of the run are no longer in {place}: name their new place with "
            f"--data{labels}"
        ) from error


def _open_others(trained, spec):
    """Images that are not opened as those of the run, perhaps for want of its labels."""
    try:
        return spec.open()
    except ValueError as error:
        labels = None if trained is None else trained.get("labels")
        if labels is None or spec.labels is not None or Path(labels).is_file():
            raise
        raise FileNotFoundError(
            f"The labels of the run are no longer in {labels}: name their new place with --labels"
        ) from error


def _open_moved(trained, moved, given, student):
    """The images of a run at another place, or `None` if those there are other ones."""
    try:
        spec = _spec_of_run({**trained, **moved})
        data = spec.open()
    except (ValueError, OSError):  # they cannot be opened as in the training
        return None
    if not _are_those_of(trained, spec, data):
        return None
    if given:
        spec = replace(spec, **given)
        data = spec.open()
        _check_fit(student, data)
    return _opened(spec, _normalized_as_in(trained, spec, data))


def _are_those_of(trained, spec, data):
    """Whether data are those of a run, as far as can be seen."""
    # The digest of a run covers its images with and without labels together.
    comparable = spec.unlabelled == trained.get("unlabelled")
    return not comparable or trained.get("digest") == data.digest


def _opened(spec, data):
    config = {
        **spec.config(),
        "name": data.name,
        "split": data.split,
        "mean": list(data.mean),
        "std": list(data.std),
        "digest": data.digest,
    }
    # A calibration may train, which needs labels.
    return OpenedData(data.labelled(), config)


def _spec_of_run(config):
    """The `DataSpec` of a run. An export needs no images without labels: they may be gone."""
    folder = config.get("unlabelled")
    if folder is not None and not Path(folder).is_dir():
        log.warning(
            "The images without labels are no longer in %s, so that it was not checked whether the "
            "others have changed since the training.",
            folder,
        )
        spec = DataSpec.from_config({**config, "unlabelled": None, "skip_corrupt": False})
        # It may have been for these images only.
        is_folder = spec.kind == "folder"
        return replace(spec, skip_corrupt=is_folder and config.get("skip_corrupt", False))
    return DataSpec.from_config(config)


def _sized_for(student, spec):
    """Images of a folder get the student's size where no other is given."""
    if student is None or spec.image_size is not None or spec.kind not in ("folder", "imagenet"):
        return spec
    return replace(spec, image_size=student.input_shape[1])


def _check_fit(student, data):
    """Refuse images of another size, other channels or other classes than the student has."""
    if student is None:
        return
    shape, classes = student.input_shape[1:], student.output_shape[-1]
    if not shapes_agree(shape, data.image_shape):
        raise ValueError(
            f"The images of --data must have the shape that the student takes, {shape}. "
            "--image-size sets height and width where images have no fixed size. "
            f"Received: images of shape {data.image_shape}"
        )
    if data.num_classes != classes:
        raise ValueError(
            f"The images of --data must have the {classes} classes of the student. "
            f"Received: {data.num_classes} classes"
        )


def _normalized_as_in(trained, spec, data):
    """Another data set, with the pixels normalized as the student was trained with."""
    if spec.pixels is None and trained is not None and {"mean", "std"} <= set(trained):
        return replace(data, mean=tuple(trained["mean"]), std=tuple(trained["std"]))
    return data


def _data_config_of(model):
    path = Path(model)
    recorded, file = sweep_of(path), SWEEP
    if recorded is None:
        run, file = run_of(path), CONFIG
        recorded = {} if run is None else read_config(run, "model")
    data = recorded.get("data")
    if not isinstance(data, dict | None):
        raise ValueError(f"{file} of {str(model)!r} is damaged: it does not describe a data set.")
    return data
