"""Options that several commands have. Only the standard library is imported."""

from letkd_keras.commands.option_types import PIXELS, byte_count, choice, list_item, path, text
from letkd_keras.commands.own_modules import import_modules
from letkd_keras.ranges import (
    class_count,
    fraction,
    image_size,
    positive_fraction,
    positive_integer,
    seed,
)


def add_data_options(parser, default=None, *, required=False, default_text=None, pixels_text=None):
    """Add the options that select images; `letkd_keras.data.DataSpec.from_options` reads them.

    Args:
        parser: `Parser`.
        default: Default of `--data`.
        required: Whether `--data` must be given.
        default_text: What the help says of a default that the command computes.
        pixels_text: What the help says of the default of `--pixels`; `None`: mean and standard
            deviation of the data set.
    """
    group = parser.add_argument_group("images")
    add = group.add_argument
    computed = f" (default: {default_text})" if default_text else ""
    add(
        "--data",
        type=text,
        metavar="SPEC",
        default=default,
        required=required,
        help="digits, cifar10, cifar100, tiny-imagenet:DIR, imagenet:DIR, tfds:NAME, a folder of "
        "class folders (or train/ and val/, or train/, val/ and test/), or an .npz file that "
        f"python -m letkd_keras.data wrote{computed}",
    )
    add(
        "--data-dir",
        type=path,
        metavar="DIR",
        help="folder in which tensorflow-datasets keeps its data sets",
    )
    add(
        "--image-size",
        type=image_size,
        metavar="N",
        help="height and width that images are resized to, for data without a fixed size",
    )
    add(
        "--pixels",
        type=choice(*PIXELS),
        metavar="SCALE",
        help="scale of the pixels that the networks get: 0..255, 0..1, -1..1, or imagenet (mean "
        "and standard deviation of ImageNet); default: "
        f"{pixels_text or 'mean and standard deviation of the data set'}",
    )
    add("--classes", type=class_count, metavar="N", help="use the first N classes only")
    add(
        "--train-examples",
        type=positive_integer,
        metavar="N",
        help="use N training images only, classes in the same proportion (the first N of records "
        "of tensorflow-datasets that are streamed)",
    )
    add(
        "--test-examples",
        type=positive_integer,
        metavar="N",
        help="use N test images only, likewise",
    )
    add(
        "--validation-fraction",
        type=fraction,
        metavar="F",
        default=0.0,
        help="fraction of the training images that is held out; epochs and sizes are selected on "
        "them",
    )
    add(
        "--labels",
        type=path,
        metavar="FILE.csv",
        help="labels of the images of a folder, columns file,label, in place of class folders",
    )
    add("--skip-corrupt", action="store_true", help="leave out image files that cannot be read")
    add(
        "--image-cache",
        type=path,
        metavar="DIR",
        help="keep decoded images in files of this folder instead of in memory",
    )


def add_unlabelled_options(parser):
    """Add the options of training images without labels, which `DataSpec.from_options` reads."""
    add = parser.add_argument_group("images without labels").add_argument
    add(
        "--unlabelled",
        type=path,
        metavar="DIR",
        help="folder of further training images without labels, which all losses but the "
        "cross-entropy use",
    )
    add(
        "--labelled-fraction",
        type=positive_fraction,
        metavar="F",
        help="fraction of the training images that keep their labels; use it to measure the effect "
        "of few labels (default: all)",
    )


def add_prototype_options(
    parser,
    *,
    templates=4096,
    subclasses=8,
    components=60,
    iterations=20,
    feature_cache=None,
):
    """Add the options of the prototype fit.

    Args:
        parser: `Parser`.
        templates: Default of `--templates`.
        subclasses: Default of `--subclasses`.
        components: Default of `--components`.
        iterations: Default of `--iterations`.
        feature_cache: Default of `--feature-cache`.
    """
    group = parser.add_argument_group("prototypes")
    add = group.add_argument
    integer = {"type": positive_integer, "metavar": "N"}
    add("--templates", default=templates, help="templates of the penultimate level", **integer)
    add("--subclasses", default=subclasses, help="sub-classes of each class", **integer)
    add("--components", default=components, help="components of the LDA", **integer)
    add("--iterations", default=iterations, help="iterations of each k-means", **integer)
    add(
        "--memory",
        type=byte_count,
        metavar="BYTES",
        help="memory for feature vectors, such as 800M or 2G (default: 256M, or what 256 vectors "
        "for each center of a k-means need)",
    )
    add(
        "--feature-cache",
        type=choice("float32", "float16", "none"),
        metavar="TYPE",
        default=feature_cache,
        help="float32 or float16: keep all feature vectors on disk, so that the k-means uses all "
        "of them rather than those that fit into --memory; none: no file",
    )


def add_engine_options(parser, *, work="the teacher's passes over the images"):
    """Add `--engine` and `--workers`: in which processes the command computes.

    `--workers` must be given with `--engine ray`, and only then.

    Args:
        parser: `Parser`.
        work: What the processes share, for the help.
    """
    group = parser.add_argument_group("processes")
    group.add_argument(
        "--engine",
        type=choice("local", "ray"),
        metavar="ENGINE",
        default="local",
        help=f"local: this process. ray: workers of Ray share {work}, on this machine or on the "
        "Ray cluster that RAY_ADDRESS names",
    )
    group.add_argument(
        "--workers",
        type=positive_integer,
        metavar="N",
        help="number of workers of --engine ray; each takes one GPU if there are any",
    )
    parser.add_check(_check_engine)


def _check_engine(options):
    if options.engine == "ray" and options.workers is None:
        return "--engine ray needs --workers N"
    if options.engine == "local" and options.workers is not None:
        return f"--workers needs --engine ray. Received: --workers {options.workers}"
    return None


def add_seed_option(parser):
    """Add `--seed`."""
    parser.add_argument(
        "--seed",
        type=seed,
        metavar="N",
        default=0,
        help="seed of everything that is random (the split of the digits is not)",
    )


def add_out_option(parser, default_text=None, *, type=path, required=False, help=None):
    """Add `--out`, what the command writes.

    Args:
        parser: `Parser`.
        default_text: What the help says of a default that the command computes.
        type: `path` for a folder, `output_file(suffix)` for a file.
        required: Whether it must be given.
        help: Text of the help.
    """
    what = help or "folder to write into; an interrupted run is continued there"
    computed = f" (default: {default_text})" if default_text else ""
    parser.add_argument(
        "--out", type=type, metavar="PATH", required=required, help=f"{what}{computed}"
    )


def add_formats_option(parser):
    """Add `--formats`, a list separated by spaces."""
    parser.add_argument(
        "--formats",
        nargs="+",
        type=list_item,
        metavar="FORMAT",
        default=["savedmodel", "tflite"],
        help="formats to export the student to, or all",
    )


def add_import_option(parser, group=None):
    """Add `--import`, modules of the user that add methods, losses and networks, or have layers.

    They are imported once all options are parsed, before names are looked up in the tables.

    Args:
        parser: `Parser`.
        group: Its group that shows the option; `None` for the parser itself.
    """
    (group or parser).add_argument(
        "--import",
        dest="imports",
        nargs="+",
        type=list_item,
        metavar="MODULE",
        default=[],
        help="Python modules of your own, which add methods, losses or networks, or have layers of "
        "a .keras file (default: none)",
    )
    parser.add_check(_import_modules)


def _import_modules(options):
    import_modules(options.imports)


def add_methods_option(parser, default):
    """Add `--methods`, a list separated by spaces."""
    parser.add_argument(
        "--methods",
        nargs="+",
        type=list_item,
        metavar="METHOD",
        default=list(default),
        help="methods to train students with; python -m letkd_keras.recipes --list prints them",
    )
