"""The experiment that the options of a recipe describe."""

from dataclasses import replace

from letkd_keras.errors import argument_renamed
from letkd_keras.recipes.experiments.options import (
    ADAMW,
    HEAD_EPOCHS,
    OF_KD_LAYERS,
    OF_PROTOTYPES,
    OF_TEACHER,
)
from letkd_keras.recipes.experiments.settings import Pair

# A head on frozen features is a linear classifier: no schedule of a whole network fits it.
_HEAD = {"optimizer": "adamw", "schedule": "cosine", "warm_up_epochs": 0, "weight_decay": 0.0}
# Options of the schedules whose default is a field of the same name of `Settings`.
_OF_TRAINING = ("optimizer", "schedule")


def experiment_of(options, settings):
    """The experiment that options describe.

    Everything that needs no data is checked before the data are read.

    Args:
        options: What a parser with `add_experiment_options` gave.
        settings: `Settings` of the recipe.

    Returns:
        `Experiment`.

    Raises:
        ValueError: If an option does not fit.
        FileNotFoundError: If the data or the file of a network does not exist.
        ImportError: If a format needs a package that is not installed.
    """
    from letkd_keras.data import keras_cv_policies
    from letkd_keras.recipes.experiments import logit_loss_settings
    from letkd_keras.recipes.experiments import methods as method_table
    from letkd_keras.recipes.experiments.experiment import Experiment
    from letkd_keras.recipes.trainings.training import make_callback

    names = tuple(dict.fromkeys(options.methods))
    for name in names:
        method_table.parse(name)
    for policy in options.augment:
        with argument_renamed("policies", "augment"):
            keras_cv_policies.check(policy)
    for name in options.callback:
        make_callback(name)
    formats = _checked_formats(options)
    teacher, student, pair = _networks(options, settings)
    spec = _data_spec(options, settings, teacher, student)
    schedules = _schedules(options, settings, pair)
    data = spec.open()
    return Experiment(
        spec=spec,
        data=data,
        pair=pair.name,
        methods=names,
        teacher=teacher,
        student=student,
        **schedules,
        student_examples=options.student_examples,
        augmentation=_augmentation(options, settings, data),
        penultimate_alpha=_given(options, "penultimate_alpha", pair.penultimate_alpha),
        intermediate_alpha=_given(options, "intermediate_alpha", pair.intermediate_alpha),
        penultimate_weight=options.penultimate_weight,
        intermediate_weight=options.intermediate_weight,
        initial_template_scale=options.template_scale,
        temperature=options.temperature,
        block_size=options.block_size,
        **{name: _given(options, name, getattr(settings, name)) for name in OF_PROTOTYPES},
        memory=options.memory,
        feature_cache=None if options.feature_cache == "none" else options.feature_cache,
        logit_losses=logit_loss_settings.of_pair(settings, pair),
        callbacks=tuple(options.callback),
        imports=tuple(options.imports),
        class_weights=options.class_weights,
        growth=options.growth,
        typed=_typed(options, settings),
        seed=options.seed,
        trials=options.trials,
        export_method=options.methods[-1] if formats else None,
        formats=formats,
    )


def _given(options, name, default):
    """The value of an option, or the default where it was not given."""
    value = getattr(options, name)
    return default if value is None else value


def _typed(options, settings):
    """Names of options that have no effect in some experiments, where they are not the default."""
    defaults = {name: getattr(settings, name) for name in OF_PROTOTYPES} | OF_KD_LAYERS
    names = [name for name in OF_TEACHER if getattr(options, name)]
    names += [name for name in defaults if getattr(options, name) not in (None, defaults[name])]
    return tuple(names)


def _networks(options, settings):
    """Teacher, student and their `Pair`, of names that are checked."""
    from letkd_keras.recipes.experiments.networks import Network

    typed = getattr(options, "pair", None)
    name = typed or settings.pair
    pair = None if name is None else settings.find_pair(name)
    if pair is None and not (options.teacher and options.student):
        raise ValueError(
            "`teacher` and `student` must be given, or `pair`, for this data set. "
            f"Received: teacher={options.teacher}, student={options.student}"
        )
    teacher, student = (
        Network.of(
            getattr(options, role) or getattr(pair, role),
            penultimate_layer=getattr(options, f"{role}_penultimate_layer"),
            intermediate_layer=getattr(options, f"{role}_intermediate_layer"),
            weights=getattr(options, f"{role}_weights"),
            input_size=getattr(options, f"{role}_image_size"),
            pixels=getattr(options, f"{role}_pixels"),
        )
        for role in ("teacher", "student")
    )
    teacher.check("teacher")
    student.check("student")
    return teacher, student, _pair_of(teacher, student, pair, settings, typed is not None)


def _data_spec(options, settings, teacher, student):
    """The `DataSpec`, with the pixels of the recipe and a size that suits the networks."""
    from letkd_keras.data import DataSpec

    spec = DataSpec.from_options(options)
    # Without `out`, results are below the folder runs.
    spec.check_is_outside(options.out or "runs", "out")
    if spec.pixels is None:
        spec = replace(spec, pixels=settings.pixels)
    if spec.kind == "folder" and spec.image_size is None:
        # A network of another size resizes the images itself.
        size = student.image_size("student") or teacher.image_size("teacher") or 64
        spec = replace(spec, image_size=size)
    return spec


def _schedules(options, settings, pair):
    """The `Schedule`s, by the names of their fields of `Experiment`."""
    from letkd_keras.recipes.trainings.schedule import Schedule

    # The numbers of the settings are for SGD.
    chosen = {name: _given(options, name, getattr(settings, name)) for name in _OF_TRAINING}
    adjusted = ADAMW if chosen["optimizer"] == "adamw" else {}
    weight_decay = adjusted.get("weight_decay", settings.weight_decay)
    names = ("ema", "clip_norm", "mixed_precision")
    shared = {
        **chosen,
        **{name: getattr(options, name) for name in names},
        "warm_up_epochs": options.warm_up_epochs or 0,
        "weight_decay": _given(options, "weight_decay", weight_decay),
    }
    student_epochs = _given(options, "epochs", settings.epochs)
    if options.milestones:
        settings = _with_milestones(
            settings, options.milestones, student_epochs, chosen["schedule"]
        )
    batch_size = _given(options, "batch_size", settings.batch_size)

    def schedule(rate_option, rate, epochs, **others):
        rate = _given(options, rate_option, adjusted.get("learning_rate", rate))
        made = Schedule.of(settings, rate, epochs, batch_size, **shared, **others)
        if options.scale_learning_rate:
            made = made.scaled_from(settings.batch_size, options.warm_up_epochs)
        return made

    epochs = _given(options, "teacher_epochs", settings.teacher_epochs or student_epochs)
    teacher = schedule("teacher_learning_rate", settings.learning_rate, epochs)
    head_epochs = _given(options, "head_epochs", HEAD_EPOCHS)
    of_head = {**shared, **_HEAD}
    head = Schedule.of(settings, ADAMW["learning_rate"], head_epochs, batch_size, **of_head)
    fine_tune = None
    if options.fine_tune_epochs:
        factor = 0.1 if options.teacher_learning_rate is None else 1.0
        fine_tune = replace(
            schedule("teacher_learning_rate", settings.learning_rate, options.fine_tune_epochs),
            learning_rate=factor * teacher.learning_rate,
            warm_up_epochs=0,
        )
    student = schedule(
        "learning_rate",
        pair.learning_rate,
        student_epochs,
        label_smoothing=options.label_smoothing,
        kd_learning_rate_factor=options.kd_learning_rate_factor,
    )
    quantization_aware = None
    if options.quantization_aware_epochs:
        quantization_aware = student.quantization_aware(options.quantization_aware_epochs)
    return {
        "teacher_schedule": teacher,
        "head_schedule": head,
        "fine_tune_schedule": fine_tune,
        "student_schedule": student,
        "quantization_aware_schedule": quantization_aware,
    }


def _with_milestones(settings, milestones, epochs, schedule):
    """The settings with other milestones, which belong to so many epochs."""
    if schedule != "steps":
        raise ValueError(
            "`milestones` are for the schedule steps: choose it by `schedule`. "
            f"Received: schedule={schedule}"
        )
    if milestones != sorted(set(milestones)) or milestones[-1] >= epochs:
        raise ValueError(
            f"`milestones` must increase and be less than the {epochs} epochs of a student. "
            f"Received: milestones={' '.join(map(str, milestones))}"
        )
    return replace(settings, milestones=tuple(milestones), milestones_of=epochs)


# Augmentations of images that are read from disk in each epoch, and of those in memory.
_STREAMED = ("area", "aspect", "flip")
_IN_MEMORY = ("crop_padding", "rotation", "flip")


def _augmentation(options, settings, data):
    from letkd_keras.data import keras_cv_policies

    streamed = not data.in_memory
    names = _STREAMED if streamed else _IN_MEMORY
    augmentation = {name: value for name, value in settings.augmentation.items() if name in names}
    if "crop_padding" in augmentation and settings.image_size:
        # The same share of images of another size.
        height = data.image_shape[0]
        padding = augmentation["crop_padding"] * height // settings.image_size
        augmentation["crop_padding"] = padding
    if settings.dataset == "folder" and not streamed:
        augmentation = {"crop_padding": data.image_shape[0] // 8, **augmentation}
    if options.no_flip:
        augmentation["flip"] = False
    if options.augment:
        if streamed:
            raise ValueError(
                "`augment` applies to images in memory. "
                f"Received: augment={' '.join(options.augment)} with {data.name}, which is read "
                "from disk"
            )
        with argument_renamed("policies", "augment"):
            keras_cv_policies.check_channels(options.augment, data.image_shape[-1])
        augmentation["policies"] = list(options.augment)
    return augmentation


def _pair_of(teacher, student, named, settings, typed):
    """The pair of two networks, with its learning rate, alphas and published name.

    A file counts as the network that the named pair has in its place if its model has that name, or
    if the pair was typed.
    """
    from letkd_keras import models
    from letkd_keras.functional.loading import model_name

    names = []
    for role, network in (("teacher", teacher), ("student", student)):
        name = getattr(named, role, None)
        counts = network.file and name and (typed or model_name(network.file) == name)
        names.append(name if counts else network.title)
    if set(names) <= set(models.names()):
        return settings.find_pair("-".join(names))
    return Pair(*names, learning_rate=settings.learning_rate_of(names[1]))


def _checked_formats(options):
    names = getattr(options, "formats", None)
    if not names:
        return ()
    import keras

    from letkd_keras.export import formats

    expanded = tuple(formats.expand(names))
    if keras.backend.backend() == "tensorflow":  # on others nothing is exported
        formats.check_installed(expanded)
    return expanded
