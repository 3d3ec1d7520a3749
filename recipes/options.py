"""The options that all recipes share, and the experiment that they describe.

Only the standard library is imported before the options are parsed.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from letkd_keras import option_types
from letkd_keras.command_line import (
    PIXELS,
    add_data_options,
    add_engine_options,
    add_formats_option,
    add_methods_option,
    add_out_option,
    add_prototype_options,
    add_seed_option,
    add_unlabelled_options,
)
from letkd_keras.option_types import (
    choice,
    fraction,
    image_size,
    list_item,
    non_negative_integer,
    non_negative_number,
    positive_integer,
    positive_number,
    share,
)
from letkd_keras.recipes.settings import Pair
from letkd_keras.terminal import print_report

# Options whose default is a field of the same name of `Settings`.
_FROM_SETTINGS = (
    *("epochs", "batch_size", "templates", "subclasses", "components", "iterations", "memory"),
    "feature_cache",
)
# Options of a `Schedule` with the same default, that of `Settings`, for teacher and students.
_OF_SCHEDULE = (
    *("optimizer", "schedule", "warm_up_epochs", "ema", "clip_norm", "mixed_precision"),
)
# A head on frozen features is a linear classifier: no schedule of a whole network fits it.
_HEAD = {"optimizer": "adamw", "schedule": "cosine", "warm_up_epochs": 0, "weight_decay": 0.0}
# In place of those of `Settings`, which are for SGD, where `--optimizer adamw` is given.
_ADAMW = {"learning_rate": 1e-3, "weight_decay": 0.05}


def growth(text):
    """Convert a share that may be given in percent: `25%` or `0.25`.

    Returns:
        A number greater than 0.

    Raises:
        argparse.ArgumentTypeError: If it is not such a number.
    """
    try:
        number = positive_number(text.strip().removesuffix("%"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"must be a share greater than 0 such as 25% or 0.25. Received: {text!r}"
        ) from None
    return number / 100 if text.strip().endswith("%") else number


def add_experiment_options(
    parser,
    settings=None,
    *,
    data=None,
    data_required=None,
    methods=("letkd2",),
    networks_required=False,
    exports=True,
    out="runs/DATA/TEACHER-STUDENT",
):
    """Add the options of an experiment.

    Args:
        parser: `Parser`.
        settings: `Settings` whose values are the defaults; `None` if they depend on `--data`.
        data: Default of `--data`.
        data_required: What `--data` must be given as, where it has no default.
        methods: Default of `--methods`; `None` for no such option.
        networks_required: Whether `--teacher` and `--student` must be given, without `--pair`.
        exports: Whether the recipe exports a student.
        out: What the help says of the default of `--out`.
    """
    add_data_options(parser, default=data, required=data_required is not None)
    add_unlabelled_options(parser)
    if settings:
        parser.set_defaults(pixels=settings.pixels)
    of_data = "" if settings else " (default: as in the recipe of the data set)"
    default = _defaults(settings)

    add = parser.add_argument_group("networks").add_argument
    if not networks_required:
        add(
            "--pair",
            type=option_types.text,
            metavar="TEACHER-STUDENT",
            default=settings.pair if settings else None,
            help="a pair of python -m letkd_keras.recipes --list, or any two networks of the zoo"
            f"{of_data}",
        )
    add(
        "--teacher",
        type=option_types.text,
        required=networks_required,
        metavar="NETWORK",
        help="a network of the zoo, keras.applications:NAME, keras_hub:PRESET or a .keras file; it "
        "is trained first where it has no trained weights"
        + ("" if networks_required else " (default: of the pair)"),
    )
    add(
        "--student",
        type=option_types.text,
        required=networks_required,
        metavar="NETWORK",
        help="likewise; it starts from trained weights where it has some"
        + ("" if networks_required else " (default: of the pair)"),
    )
    for role in ("teacher", "student"):
        add(
            f"--{role}-weights",
            type=choice("none", "imagenet", "preset"),
            metavar="KIND",
            help=f"weights that the {role} starts from: imagenet for keras.applications, preset "
            "for keras-hub (default: those of a file or preset, otherwise none)",
        )
    for role in ("teacher", "student"):
        add(
            f"--{role}-image-size",
            type=image_size,
            metavar="N",
            help=f"height and width that the {role} computes on, if not that of the images",
        )
    for role in ("teacher", "student"):
        add(
            f"--{role}-pixels",
            type=choice(*PIXELS),
            metavar="SCALE",
            help=f"scale of the pixels that a {role} from a file was trained with, if not that of "
            "the images",
        )
    for level in ("penultimate", "intermediate"):
        for role, prefix in (("student", ""), ("teacher", "teacher-")):
            add(
                f"--{prefix}{level}-layer",
                type=option_types.text,
                metavar="LAYER",
                help=f"the {role}'s {level} layer (default: suggested)",
            )

    group = parser.add_argument_group("training")
    if methods is not None:
        add_methods_option(group, methods)
    add = group.add_argument
    integer = {"type": positive_integer, "metavar": "N"}
    number = {"type": positive_number, "metavar": "X"}
    add("--trials", default=1, help="students of each method, of consecutive seeds", **integer)
    add(
        "--student-examples",
        default=default.student_examples,
        help="train the students on N of the training images only, classes in the same proportion, "
        "repeated in an epoch; the teacher has all" + (of_data or " (default: all)"),
        **integer,
    )
    add(
        "--epochs",
        default=default.epochs,
        help=f"epochs of a student; the milestones of the learning rate are scaled{of_data}",
        **integer,
    )
    add(
        "--teacher-epochs",
        default=default.teacher_epochs,
        help="epochs of a teacher"
        + ("" if default.teacher_epochs else of_data or " (default: as --epochs)"),
        **integer,
    )
    add(
        "--head-epochs",
        default=10,
        help="epochs of a new head of a trained teacher that has other classes or no head, on its "
        "frozen features",
        **integer,
    )
    add(
        "--fine-tune-epochs",
        type=non_negative_integer,
        metavar="N",
        default=0,
        help="epochs of fine-tuning all of a trained teacher after that, by default at a tenth of "
        "--teacher-learning-rate",
    )
    add(
        "--quantization-aware-epochs",
        type=non_negative_integer,
        metavar="N",
        default=0,
        help="epochs in which every student is then trained further by its method while it "
        "computes as its int8 file will, from a hundredth of its learning rate (default: 0)",
    )
    add(
        "--batch-size",
        default=default.batch_size,
        help=f"images in a step, over all devices{of_data}",
        **integer,
    )
    add(
        "--learning-rate",
        help="learning rate of the student's first epochs (default: as in the paper for the pair)",
        **number,
    )
    add(
        "--teacher-learning-rate",
        help="learning rate of the teacher's first epochs"
        + (f" (default: {default.learning_rate})" if default.learning_rate else of_data),
        **number,
    )
    add(
        "--augment",
        nargs="+",
        metavar="POLICY",
        default=[],
        help="randaugment, cutmix, mixup: policies of keras-cv, after those of the recipe "
        "(default: none)",
    )
    add("--no-flip", action="store_true", help="do not flip images (writing, left and right hands)")
    _add_training_options(add, default, of_data)

    add_prototype_options(
        parser,
        **{name: getattr(default, name) for name in _FROM_SETTINGS[2:]},
    )
    add = parser.add_argument_group("KD layers").add_argument
    add(
        "--growth",
        type=growth,
        metavar="SHARE",
        help="share of the student's parameters that the KD layers may add, such as 25%%; fewer "
        "templates and sub-classes than given above are then used (default: no limit)",
    )
    weight = {"type": non_negative_number, "metavar": "X"}
    add(
        "--block-size",
        type=positive_integer,
        metavar="N",
        help="images that KD layers and their losses compute at a time, where memory is short; the "
        "results are the same (default: the whole batch)",
    )
    add("--temperature", default=1.0, help="temperature of the penultimate targets", **number)
    add("--template-scale", default=3.0, help="initial scale of the KD layers' scores", **number)
    add(
        "--kd-learning-rate-factor",
        default=1.0,
        help="factor of the learning rate of the KD layers, of sgd",
        **number,
    )
    for level in ("penultimate", "intermediate"):
        add(
            f"--{level}-alpha",
            help=f"alpha of the {level} KD layer (default: as in the paper for the pair)",
            **weight,
        )
    for level in ("penultimate", "intermediate"):
        add(
            f"--{level}-weight",
            default=1.0,
            help=f"weight of the {level} KL divergence",
            **weight,
        )

    add_engine_options(parser, work="each training and the teacher's passes over the images")
    group = parser.add_argument_group("results")
    if exports:
        add_formats_option(group, ("savedmodel", "tflite"))
    add_out_option(group, out)
    add_seed_option(group)


def _add_training_options(add, default, of_data):
    """Add what practitioners choose beyond the schedule of the published results."""
    none = of_data or " (default: none)"
    add(
        "--optimizer",
        type=choice("sgd", "adamw"),
        metavar="NAME",
        default=default.optimizer,
        help="sgd (Nesterov momentum 0.9) or adamw (unless given, with learning rates of "
        f"{_ADAMW['learning_rate']} and a weight decay of {_ADAMW['weight_decay']}){of_data}",
    )
    add(
        "--weight-decay",
        type=non_negative_number,
        metavar="X",
        help=f"weight decay (default: of the recipe, {default.weight_decay} for sgd)"
        if default.weight_decay is not None
        else f"weight decay{of_data}",
    )
    add(
        "--schedule",
        type=choice("steps", "cosine"),
        metavar="NAME",
        default=default.schedule,
        help=f"steps: the learning rate drops at milestones; cosine: it decays to 0{of_data}",
    )
    add(
        "--warm-up-epochs",
        type=non_negative_integer,
        metavar="N",
        help="first epochs, in which the learning rate grows linearly (default: "
        + ("as in the recipe of the data set" if of_data else f"{default.warm_up_epochs}")
        + ", or those of --scale-learning-rate)",
    )
    add(
        "--scale-learning-rate",
        action="store_true",
        help="multiply the learning rates of sgd by --batch-size divided by the recipe's batch "
        "size; for larger batches it grows in the first 18th of the epochs, at most 5 (Goyal et "
        "al. 2017)",
    )
    add(
        "--label-smoothing",
        type=share,
        metavar="X",
        default=default.label_smoothing,
        help="share of the labels that is spread over all classes, in the students' cross-entropy "
        f"(a teacher is trained without){of_data}",
    )
    add(
        "--ema",
        type=fraction,
        metavar="X",
        default=default.ema,
        help="momentum of a moving average of the weights, such as 0.999, which is evaluated and "
        f"saved{none}",
    )
    add(
        "--clip-norm",
        type=positive_number,
        metavar="X",
        default=default.clip_norm,
        help=f"largest norm of the gradient of all weights{none}",
    )
    add(
        "--mixed-precision",
        type=choice("float16", "bfloat16"),
        metavar="TYPE",
        default=default.mixed_precision,
        help=f"float16 or bfloat16: type that layers compute in; weights are float32{none}",
    )
    add(
        "--class-weights",
        type=choice("balanced"),
        metavar="KIND",
        default=default.class_weights,
        help=f"balanced: images of rare classes have more weight in all losses{none}",
    )
    add(
        "--callback",
        type=list_item,
        nargs="+",
        metavar="MODULE:CLASS",
        default=[],
        help="Keras callbacks of every training, made without arguments (default: none)",
    )


class _NoDefaults:
    """In place of `Settings` where they depend on `--data`."""

    def __getattr__(self, name):
        return None


def _defaults(settings):
    return _NoDefaults() if settings is None else settings


def experiment_of(options, settings, methods=None, export_method=None):
    """The experiment that options describe.

    Everything that needs no data is checked before the data are read.

    Args:
        options: What a parser with `add_experiment_options` gave.
        settings: `Settings` of the recipe.
        methods: Names of the methods; `None` for those of the options.
        export_method: Method whose first student is exported; `None` for none.

    Returns:
        `Experiment`.

    Raises:
        ValueError: If an option does not fit.
        FileNotFoundError: If the data or the file of a network does not exist.
    """
    from letkd_keras.data import DataSpec, keras_cv_policies
    from letkd_keras.recipes import methods as method_table
    from letkd_keras.recipes.experiment import Experiment
    from letkd_keras.recipes.networks import Network
    from letkd_keras.recipes.training import Schedule, load_callback

    names = tuple(dict.fromkeys(methods or options.methods))
    for name in names:
        method_table.parse(name)
    for policy in options.augment:
        try:
            keras_cv_policies.check(policy)
        except ValueError as error:
            raise ValueError(str(error).replace("`policies`", "`augment`")) from error
    for name in options.callback:
        load_callback(name)
    formats = _checked_formats(options)
    pair = _named_pair(options, settings)
    if pair is None and not (options.teacher and options.student):
        raise ValueError(
            "`teacher` and `student` must be given, or `pair`, for this data set. "
            f"Received: teacher={options.teacher}, student={options.student}"
        )
    teacher, student = (
        Network.of(
            getattr(options, role) or getattr(pair, role),
            getattr(options, f"{prefix}penultimate_layer"),
            getattr(options, f"{prefix}intermediate_layer"),
            weights=getattr(options, f"{role}_weights"),
            input_size=getattr(options, f"{role}_image_size"),
            pixels=getattr(options, f"{role}_pixels"),
        )
        for role, prefix in (("teacher", "teacher_"), ("student", ""))
    )
    for network, argument in ((teacher, "teacher"), (student, "student")):
        network.check(argument)
    pair = _pair_of(teacher, student, pair, settings)

    def value(name):
        given = getattr(options, name)
        return getattr(settings, name) if given is None else given

    def given_or(name, default):
        given = getattr(options, name)
        return default if given is None else given

    spec = DataSpec.from_options(options)
    if spec.pixels is None:
        spec = replace(spec, pixels=settings.pixels)
    if spec.kind == "folder" and spec.image_size is None:
        # A network of another size resizes the images itself.
        size = student.image_size() or teacher.image_size() or 64
        spec = replace(spec, image_size=size)

    shared = {name: value(name) for name in _OF_SCHEDULE}
    # The numbers of the settings are for their own optimizer.
    keeps_optimizer = shared["optimizer"] == settings.optimizer
    adjusted = {} if keeps_optimizer or shared["optimizer"] == "sgd" else _ADAMW
    weight_decay = adjusted.get("weight_decay", settings.weight_decay)
    shared["weight_decay"] = given_or("weight_decay", weight_decay)

    def schedule(rate_option, rate, epochs, **others):
        rate = given_or(rate_option, adjusted.get("learning_rate", rate))
        made = Schedule.of(settings, rate, epochs, value("batch_size"), **shared, **others)
        if options.scale_learning_rate:
            made = made.scaled_from(settings.batch_size, options.warm_up_epochs)
        return made

    teacher_epochs = given_or("teacher_epochs", settings.teacher_epochs or value("epochs"))
    teacher_schedule = schedule("teacher_learning_rate", settings.learning_rate, teacher_epochs)
    head_schedule = Schedule.of(
        settings,
        *(_ADAMW["learning_rate"], options.head_epochs, value("batch_size")),
        **{**shared, **_HEAD},
    )
    fine_tune_schedule = None
    if options.fine_tune_epochs:
        fine_tune_schedule = replace(
            schedule("teacher_learning_rate", settings.learning_rate, options.fine_tune_epochs),
            learning_rate=teacher_schedule.learning_rate
            * (0.1 if options.teacher_learning_rate is None else 1.0),
        )
    student_schedule = schedule(
        "learning_rate",
        pair.learning_rate,
        value("epochs"),
        label_smoothing=value("label_smoothing"),
        kd_learning_rate_factor=options.kd_learning_rate_factor,
    )
    quantization_aware_schedule = None
    if options.quantization_aware_epochs:
        quantization_aware_schedule = replace(
            student_schedule,
            epochs=options.quantization_aware_epochs,
            learning_rate=student_schedule.learning_rate / 100,
            schedule="cosine",
            warm_up_epochs=0,
        )
    data = spec.open()
    return Experiment(
        spec=spec,
        data=data,
        pair=pair.name,
        methods=names,
        teacher=teacher,
        student=student,
        teacher_schedule=teacher_schedule,
        student_schedule=student_schedule,
        student_examples=value("student_examples"),
        head_schedule=head_schedule,
        fine_tune_schedule=fine_tune_schedule,
        quantization_aware_schedule=quantization_aware_schedule,
        augmentation=_augmentation(options, settings, data),
        penultimate_alpha=given_or("penultimate_alpha", pair.penultimate_alpha),
        intermediate_alpha=given_or("intermediate_alpha", pair.intermediate_alpha),
        penultimate_weight=options.penultimate_weight,
        intermediate_weight=options.intermediate_weight,
        initial_template_scale=options.template_scale,
        temperature=options.temperature,
        block_size=options.block_size,
        **{name: value(name) for name in _FROM_SETTINGS[2:-1]},
        feature_cache=None if value("feature_cache") == "none" else value("feature_cache"),
        logit_losses=method_table.logit_loss_settings(settings, pair),
        callbacks=tuple(options.callback),
        class_weights=value("class_weights"),
        growth=options.growth,
        seed=options.seed,
        trials=options.trials,
        export_method=export_method,
        formats=formats,
    )


# Augmentations of images that are read from disk in each epoch, and of those in memory.
_STREAMED = ("area", "aspect", "flip")
_IN_MEMORY = ("crop_padding", "rotation", "flip")


def _augmentation(options, settings, data):
    streamed = not hasattr(data, "x_train")
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
        augmentation["policies"] = list(options.augment)
    return augmentation


def settings_of(options):
    """The `Settings` of the recipe of the data set that `--data` names.

    A folder, an `.npz` file and data of tensorflow-datasets have those of the recipe `folder`.

    Raises:
        ValueError: If there is no such data set.
    """
    from letkd_keras.data import DataSpec
    from letkd_keras.recipes import cifar100, digits, folder, imagenet, tiny_imagenet

    recipes = {
        "digits": digits,
        "cifar10": cifar100,
        "cifar100": cifar100,
        "tiny_imagenet": tiny_imagenet,
        "imagenet": imagenet,
    }
    return recipes.get(DataSpec.from_options(options).dataset, folder).SETTINGS


def _named_pair(options, settings):
    """The pair that `--pair` or the recipe names, or `None`."""
    from letkd_keras import models

    name = getattr(options, "pair", None) or settings.pair
    return None if name is None else settings.find_pair(name, models.names())


def _pair_of(teacher, student, named, settings):
    """The pair of two networks, with its learning rate, alphas and published name.

    A file counts as the network that the named pair has in its place.
    """
    from letkd_keras import models

    names = [
        getattr(named, role) if network.file and named else network.title
        for role, network in (("teacher", teacher), ("student", student))
    ]
    if set(names) <= set(models.names()):
        return settings.find_pair("-".join(names), models.names())
    return Pair(*names, learning_rate=settings.learning_rate_of(names[1]))


def _checked_formats(options):
    names = getattr(options, "formats", None)
    if not names:
        return ()
    from letkd_keras.export import formats

    return tuple(formats.expand(names))


def default_out(experiment, kind=""):
    """The folder of the results where `--out` is not given."""
    data = experiment.data.name.split(",")[0].replace(" ", "-").replace("/", "-")
    return Path("runs", data, f"{kind}{experiment.pair}")


def run_recipe(options, settings, measures=None):
    """Run the experiment of a recipe's options and print its report.

    Args:
        options: What a parser with `add_experiment_options` gave.
        settings: `Settings` of the recipe.
        measures: See `run`.

    Returns:
        The report as a dictionary.
    """
    names = options.methods
    # The student that ships: of letKD-2 where it is trained, otherwise of the last method.
    exported = "letkd2" if "letkd2" in names else names[-1]

    def run_experiment(experiment):
        from letkd_keras.recipes.run import run

        out = options.out or default_out(experiment)
        report = run(experiment, out, measures=measures)
        print_report(Path(out) / "report.md")
        print(f"\nEverything is in {out}")
        return report

    return run_on_workers(
        options, lambda: experiment_of(options, settings, export_method=exported), run_experiment
    )


def run_on_workers(options, make_experiment, command):
    """Run a recipe's command; where there are other workers, they share its trainings.

    Args:
        options: What a parser with `add_experiment_options` gave.
        make_experiment: Function that returns the `Experiment` of the options.
        command: Function of this experiment.

    Returns:
        What the command returns; `None` on other workers than the chief.
    """
    import keras

    from letkd_keras.recipes import ray_workers, shared_training

    if options.engine == "ray":
        ray_workers.check(keras.backend.backend())
        experiment = make_experiment()
        with ray_workers.RayWorkers.running(options.workers, experiment):
            return command(experiment)
    return shared_training.run_on_workers(keras.backend.backend(), make_experiment, command)
