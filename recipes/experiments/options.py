"""The options that all recipes share.

Only the standard library is imported before the options are parsed.
"""

import argparse
from dataclasses import fields

from letkd_keras.commands import option_types
from letkd_keras.commands.common_options import (
    add_data_options,
    add_engine_options,
    add_formats_option,
    add_import_option,
    add_methods_option,
    add_out_option,
    add_prototype_options,
    add_seed_option,
    add_unlabelled_options,
)
from letkd_keras.commands.option_types import PIXELS, choice, list_item
from letkd_keras.levels import LEVELS
from letkd_keras.ranges import (
    fraction,
    image_size,
    non_negative_integer,
    non_negative_number,
    positive_fraction,
    positive_integer,
    positive_number,
)
from letkd_keras.recipes.experiments.settings import Settings

# Options of the prototypes whose default is a field of the same name of `Settings`.
OF_PROTOTYPES = ("templates", "subclasses", "components", "iterations")
# In place of a recipe's settings where they depend on `--data`.
_NO_DEFAULTS = Settings(**dict.fromkeys(field.name for field in fields(Settings)))
# In place of those of `Settings`, which are for SGD, where `--optimizer adamw` is given.
ADAMW = {"learning_rate": 1e-3, "weight_decay": 0.05}
HEAD_EPOCHS = 10
# Options of the teacher's training, which have no effect on some teachers.
OF_TEACHER = ("teacher_epochs", "teacher_learning_rate", "head_epochs", "fine_tune_epochs")
# Other options of KD layers and prototypes, with their defaults; alphas are those of the pair.
OF_KD_LAYERS = {
    "memory": None,
    "block_size": None,
    "temperature": 1.0,
    "template_scale": 3.0,
    "kd_learning_rate_factor": 1.0,
    "penultimate_alpha": None,
    "intermediate_alpha": None,
    "penultimate_weight": 1.0,
    "intermediate_weight": 1.0,
}


def growth(text):
    """Convert a share that may be given in percent: `25%` or `0.25`.

    Returns:
        A number greater than 0.

    Raises:
        argparse.ArgumentTypeError: If it is not such a number, or is greater than 1 without a
            percent sign, which may have been forgotten.
    """
    try:
        number = positive_number(text.strip().removesuffix("%"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"must be a share greater than 0 such as 25% or 0.25. Received: {text!r}"
        ) from None
    if text.strip().endswith("%"):
        return number / 100
    if number > 1:
        raise argparse.ArgumentTypeError(
            f"must have a percent sign if it is greater than 1, such as 25%. Received: {text!r}"
        )
    return number


def add_experiment_options(
    parser,
    settings=None,
    *,
    data=None,
    methods=("letkd2",),
    out="runs/DATA/TEACHER-STUDENT",
):
    """Add the options of an experiment.

    Args:
        parser: `Parser`.
        settings: `Settings` whose values are the defaults. If they name no pair, teacher and
            student must be given. `None` for studies: the defaults depend on `--data`, and no
            student is exported.
        data: Default of `--data`; `None` if it must be given.
        methods: Default of `--methods`.
        out: What the help says of the default of `--out`.
    """
    of_data = "" if settings else " (default: as in the recipe of the data set)"
    default = settings or _NO_DEFAULTS
    networks_required = settings is not None and settings.pair is None
    add_data_options(
        parser,
        default=data,
        required=data is None,
        pixels_text=settings.pixels if settings else "as in the recipe of the data set",
    )
    add_unlabelled_options(parser)
    _add_network_options(parser, settings, networks_required, of_data)
    _add_training_options(parser, methods, default, networks_required, of_data)
    add_prototype_options(
        parser,
        **{name: getattr(default, name) for name in OF_PROTOTYPES},
        feature_cache="float32",
    )
    _add_kd_layer_options(parser, networks_required)
    add_engine_options(parser, work="each training and the teacher's passes over the images")
    add_import_option(parser, parser.add_argument_group("your own code"))
    group = parser.add_argument_group("results")
    if settings is not None:
        add_formats_option(group)
    add_out_option(group, out)
    add_seed_option(group)


def _add_network_options(parser, settings, networks_required, of_data):
    add = parser.add_argument_group("networks").add_argument
    if not networks_required:
        add(
            "--pair",
            type=option_types.text,
            metavar="TEACHER-STUDENT",
            help="a pair of python -m letkd_keras.recipes --list, or any two networks of the zoo"
            + (f" (default: {settings.pair})" if settings else of_data),
        )
    add(
        "--teacher",
        type=option_types.text,
        required=networks_required,
        metavar="NETWORK",
        help="a .keras or .onnx file, keras.applications:NAME, keras_hub:PRESET, hf://USER/MODEL "
        "or a network of the zoo; it is trained first if it has no trained weights"
        + ("" if networks_required else " (default: of the pair)"),
    )
    add(
        "--student",
        type=option_types.text,
        required=networks_required,
        metavar="NETWORK",
        help="as --teacher, but no .onnx file; it starts from its trained weights, if it has any"
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
    for level in LEVELS:
        for role in ("student", "teacher"):
            add(
                f"--{role}-{level}-layer",
                type=option_types.text,
                metavar="LAYER",
                help=f"the {role}'s {level} layer (default: suggested)",
            )


def _add_training_options(parser, methods, default, networks_required, of_data):
    rate = f"{ADAMW['learning_rate']} with adamw, {default.learning_rate} with sgd"
    rate_of_pair = rate if networks_required else "as in the paper for the pair"
    group = parser.add_argument_group("training")
    add_methods_option(group, methods)
    add = group.add_argument
    integer = {"type": positive_integer, "metavar": "N"}
    number = {"type": positive_number, "metavar": "X"}
    add(
        "--trials",
        default=1,
        help="number of students of each method, with consecutive seeds",
        **integer,
    )
    add(
        "--student-examples",
        help="train the students on only N of the training images, classes in the same proportion, "
        "repeated in an epoch; the teacher is trained on all (default: all)",
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
        help="epochs of a teacher"
        + (of_data or f" (default: {default.teacher_epochs or 'as --epochs'})"),
        **integer,
    )
    add(
        "--head-epochs",
        help="epochs of the teacher's new head, with the other layers frozen; only for a trained "
        f"teacher with other classes or without a head (default: {HEAD_EPOCHS})",
        **integer,
    )
    add(
        "--fine-tune-epochs",
        type=non_negative_integer,
        metavar="N",
        default=0,
        help="epochs in which the whole trained teacher is then trained, at a tenth of the "
        "learning rate unless --teacher-learning-rate is given (default: 0)",
    )
    add(
        "--quantization-aware-epochs",
        type=non_negative_integer,
        metavar="N",
        default=0,
        help="further epochs of every student in which it rounds as its int8 file will, from a "
        "hundredth of its learning rate (default: 0)",
    )
    add(
        "--batch-size",
        default=default.batch_size,
        help=f"images in a step, over all devices{of_data}",
        **integer,
    )
    add(
        "--learning-rate",
        help=f"learning rate of the student's first epochs (default: {rate_of_pair})",
        **number,
    )
    add(
        "--teacher-learning-rate",
        help="learning rate of the teacher's first epochs"
        + (f" (default: {rate})" if default.learning_rate else of_data),
        **number,
    )
    add(
        "--augment",
        nargs="+",
        metavar="POLICY",
        default=[],
        help="randaugment, cutmix, mixup: policies of keras-cv, in addition to the augmentation "
        "of the recipe (default: none)",
    )
    add(
        "--no-flip",
        action="store_true",
        help="do not flip images; for images whose mirror image has another meaning, such as text",
    )
    _add_practitioners_options(add, default, of_data)


def _add_practitioners_options(add, default, of_data):
    """Add what practitioners choose beyond the schedule of the published results."""
    add(
        "--optimizer",
        type=choice("sgd", "adamw"),
        metavar="NAME",
        default=default.optimizer,
        help="sgd (Nesterov momentum 0.9) or adamw (its learning rates are "
        f"{ADAMW['learning_rate']} and its weight decay is {ADAMW['weight_decay']}, unless given)"
        f"{of_data}",
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
        help="steps: the learning rate drops at milestones; cosine: it decays to 0" + of_data,
    )
    add(
        "--milestones",
        type=positive_integer,
        nargs="+",
        metavar="EPOCH",
        help="epochs of a student after which the learning rate is divided by 10, with --schedule "
        "steps; they are scaled for a teacher of other epochs (default: those of the recipe, "
        "scaled)",
    )
    add(
        "--warm-up-epochs",
        type=non_negative_integer,
        metavar="N",
        help="first epochs of students, and of a teacher without trained weights, in which the "
        "learning rate grows linearly (default: 0, or those of --scale-learning-rate)",
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
        type=fraction,
        metavar="X",
        default=0.0,
        help="share of the labels that is spread over all classes, in the students' cross-entropy "
        "(a teacher is trained without)",
    )
    add(
        "--ema",
        type=positive_fraction,
        metavar="X",
        help="momentum of a moving average of the weights, such as 0.999, which is evaluated and "
        "saved (default: none)",
    )
    add(
        "--clip-norm",
        type=positive_number,
        metavar="X",
        help="largest norm of the gradient of all weights (default: none)",
    )
    add(
        "--mixed-precision",
        type=choice("float16", "bfloat16"),
        metavar="TYPE",
        help="float16 or bfloat16: type that layers compute in; weights are float32 (default: "
        "none)",
    )
    add(
        "--class-weights",
        type=choice("balanced"),
        metavar="KIND",
        help="balanced: images of rare classes have more weight in all losses (default: none)",
    )
    add(
        "--callback",
        type=list_item,
        nargs="+",
        metavar="MODULE:CLASS",
        default=[],
        help="Keras callbacks of every training, made without arguments; weights that they restore "
        "at the end of a training are not kept (default: none)",
    )


def _add_kd_layer_options(parser, networks_required):
    alpha_of_pair = "1" if networks_required else "as in the paper for the pair"
    add = parser.add_argument_group("KD layers").add_argument
    add(
        "--growth",
        type=growth,
        metavar="SHARE",
        help="share of the student's parameters that the KD layers of both levels may add, such as "
        "25%%; fewer templates and sub-classes than given above are then used, the same ones for "
        "all methods (default: no limit)",
    )
    number = {"type": positive_number, "metavar": "X"}
    weight = {"type": non_negative_number, "metavar": "X"}
    add(
        "--block-size",
        type=positive_integer,
        metavar="N",
        help="number of images that KD layers and their losses compute at a time; a small number "
        "needs less memory, with the same results (default: the whole batch)",
    )
    add(
        "--temperature",
        help="letKD: factor of the squared distances in the penultimate targets; larger is "
        "sharper. It is not the temperature of kd or dkd",
        **number,
    )
    add("--template-scale", help="initial scale of the KD layers' scores", **number)
    add(
        "--kd-learning-rate-factor",
        help="factor of the learning rate of the KD layers, with sgd",
        **number,
    )
    for level in LEVELS:
        add(
            f"--{level}-alpha",
            help=f"alpha of the {level} KD layer (default: {alpha_of_pair})",
            **weight,
        )
    for level in LEVELS:
        add(
            f"--{level}-weight",
            help=f"weight of the {level} KL divergence",
            **weight,
        )
    parser.set_defaults(**OF_KD_LAYERS)
