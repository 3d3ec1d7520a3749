"""What all commands share: the parser, the options and their ranges, and how a command ends.

Only the standard library is imported, so that `--help` and a wrong option are answered at once. A
command's module looks like this:

    from letkd_keras.command_line import Parser, add_data_options, run_main

    def parse(arguments=None):
        parser = Parser("letkd_keras.recipes.digits", __doc__)
        add_data_options(parser, default="digits")
        return parser.parse_args(arguments)

    def main(arguments=None):
        options = parse(arguments)
        from letkd_keras.data import DataSpec  # heavy imports come after parsing
        ...

    if __name__ == "__main__":
        run_main(main)
"""

import argparse
import difflib
import errno
import faulthandler
import importlib.util
import logging
import math
import os
import re
import shutil
import signal
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from letkd_keras.log_file import stderr_to_log

_LARGEST = 2**31 - 1
# Names of `--pixels`; `letkd_keras.data.normalization` has their numbers.
PIXELS = ("0..255", "0..1", "-1..1", "imagenet")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# === Types of options and their ranges ===


class _Range:
    """A range of numbers, as the `type` of an option."""

    _convert: ClassVar[type]

    def __call__(self, text):
        """Convert the text of an option.

        Raises:
            argparse.ArgumentTypeError: If it is not a number of the range.
        """
        try:
            value = self._convert(text)
        except ValueError:
            raise _refusal(self, text) from None
        if not self._contains(value):
            raise _refusal(self, text)
        return value


@dataclass(frozen=True)
class Integer(_Range):
    """An integer within a range, as the `type` of an option or to check an argument.

    Attributes:
        smallest: Smallest value.
        largest: Largest value.
    """

    _convert: ClassVar[type] = int
    smallest: int
    largest: int = _LARGEST

    def __str__(self):
        if self.largest == _LARGEST:
            return f"an integer of at least {self.smallest}"
        return f"an integer from {self.smallest} to {self.largest}"

    def check(self, value, argument):
        """Refuse a value that is not such an integer.

        Raises:
            ValueError: With the name of the argument, what is expected and the value.
        """
        # numpy's integers are integers, True is not.
        integer = hasattr(value, "__index__") and not isinstance(value, bool)
        if not integer or not self._contains(value):
            raise ValueError(f"`{argument}` must be {self}. Received: {argument}={value!r}")

    def _contains(self, value):
        return self.smallest <= value <= min(self.largest, _LARGEST)


@dataclass(frozen=True)
class Number(_Range):
    """A finite number within a range, as the `type` of an option or to check an argument.

    Attributes:
        smallest: Lower end of the range.
        largest: Upper end of the range, which is not part of it.
        includes_smallest: Whether the lower end is part of the range.
    """

    _convert: ClassVar[type] = float
    smallest: float
    largest: float = math.inf
    includes_smallest: bool = False

    def __str__(self):
        lower = "of at least" if self.includes_smallest else "greater than"
        upper = "" if self.largest == math.inf else f" and less than {self.largest:g}"
        return f"a finite number {lower} {self.smallest:g}{upper}"

    def check(self, value, argument):
        """Refuse a value that is not such a number.

        Raises:
            ValueError: With the name of the argument, what is expected and the value.
        """
        try:
            contained = not isinstance(value, bool | str) and self._contains(float(value))
        except (TypeError, ValueError, OverflowError):
            contained = False
        if not contained:
            raise ValueError(f"`{argument}` must be {self}. Received: {argument}={value!r}")

    def _contains(self, value):
        if not math.isfinite(value) or value >= self.largest:
            return False
        return value >= self.smallest if self.includes_smallest else value > self.smallest


positive_integer = Integer(1)
non_negative_integer = Integer(0)
class_count = Integer(2)
seed = Integer(0)
image_size = Integer(8, 4096)
positive_number = Number(0)
non_negative_number = Number(0, includes_smallest=True)
fraction = Number(0, 1)
share = Number(0, 1, includes_smallest=True)


def byte_count(text):
    """Convert a number of bytes, with an optional unit: `800M`, `2G`, `1.5G`.

    Returns:
        An integer.

    Raises:
        argparse.ArgumentTypeError: If it is not a number from 1 byte to 1024T.
    """
    expected = "a number of bytes such as 800M or 2G, at most 1024T"
    unit = _UNITS.get(text[-1:].upper())
    try:
        value = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        raise _refusal(expected, text) from None
    if not 1 <= value <= 1024 * _UNITS["T"]:  # also refuses NaN
        raise _refusal(expected, text)
    return int(value)


def text(value):
    """Accept a text that is not empty and can be written to a file.

    Raises:
        argparse.ArgumentTypeError: If it is not.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refusal("a text that can be encoded as UTF-8", value) from None
    if not value.strip() or "\0" in value:
        raise _refusal("a text that is not empty", value)
    return value


def list_item(value):
    """Accept one item of a list whose items are separated by spaces.

    Raises:
        argparse.ArgumentTypeError: If it is empty or has a comma.
    """
    if "," in value:
        raise _refusal("a list separated by spaces, not by commas", value)
    return text(value)


def path(value):
    """Convert a path.

    Raises:
        argparse.ArgumentTypeError: If it is empty.
    """
    return Path(text(value)).expanduser()


def output_file(suffix):
    """Make the type of the path of a file to write.

    Args:
        suffix: How its name must end, such as `".npz"`.

    Returns:
        A function from the text of an option to a `Path`. It refuses another suffix and a folder.
    """

    def convert(value):
        file = path(value)
        if file.suffix.lower() != suffix:
            raise _refusal(f"a file whose name ends in {suffix}", value)
        if file.is_dir():
            raise _refusal("a file, not a folder", value)
        return file

    return convert


def choice(*names):
    """Make the type of an option that has one of a few values.

    Args:
        *names: The values.

    Returns:
        A function that refuses other values and suggests a similar one.
    """

    def convert(value):
        if value not in names:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(names)}. Received: {_shown(value)}"
                f"{did_you_mean(value, names)}"
            )
        return value

    return convert


def did_you_mean(value, names):
    """Suggest the name that a wrong one resembles.

    Returns:
        A sentence with a space before it, or an empty text.
    """
    close = difflib.get_close_matches(str(value), [str(name) for name in names], n=1)
    return f". Did you mean {close[0]}?" if close else ""


def _refusal(expected, received):
    return argparse.ArgumentTypeError(f"must be {expected}. Received: {_shown(received)}")


def _shown(value):
    shown = ascii(value)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."


# === The parser ===


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Show the default of every option that has one."""

    def _get_help_string(self, action):
        shown = _default_text(action)
        if shown is None or "default" in (action.help or ""):
            return action.help
        return f"{action.help} (default: {shown})"


def _default_text(action):
    default = action.default
    if not action.option_strings or default is None or default is False:
        return None
    if default in (argparse.SUPPRESS, [], ()):
        return None
    if action.type is byte_count and isinstance(default, int):
        unit = next((u for u in reversed(_UNITS) if default % _UNITS[u] == 0), "")
        default = f"{default // _UNITS.get(unit, 1)}{unit}"
    values = default if isinstance(default, list | tuple) else [default]
    return " ".join(map(str, values)).replace("%", "%%")


class Parser(argparse.ArgumentParser):
    """The parser of a command.

    The help shows the default of every option. An error is one line that names the option, and exit
    status 2. Options cannot be abbreviated.

    Args:
        prog_module: Module that `python -m` runs, for the usage line.
        description: Text of the help, usually the module's `__doc__`.
        epilog: Text after the options, or `None`.
    """

    def __init__(self, prog_module, description, epilog=None):
        super().__init__(
            prog=f"python -m {prog_module}",
            description=description,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self._checks = []

    def add_check(self, check):
        """Have a function check options together once all are parsed.

        Args:
            check: Function of the options that returns what is wrong, a sentence, or `None`.
        """
        self._checks.append(check)

    def parse_args(self, args=None, namespace=None):
        """Parse the options, see `argparse.ArgumentParser.parse_args`."""
        words = _join_pixels(sys.argv[1:] if args is None else args)
        options, unknown = self.parse_known_args(words, namespace)
        if unknown:
            first = unknown[0]
            kind = "option" if first.startswith("-") else "argument"
            name = first.split("=")[0]
            hint = did_you_mean(name, self._option_string_actions)
            self.error(f"there is no {kind} {name}{hint or '. See --help'}")
        for check in self._checks:
            wrong = check(options)
            if wrong:
                self.error(wrong)
        return options

    def error(self, message):
        """Print one line and exit with status 2."""
        message = re.sub(r"^argument ([^:]+): ", r"\1 ", message)
        message = re.sub(
            r"invalid choice: (.+) \(choose from (.+)\)",
            lambda match: f"must be one of {match[2].replace(chr(39), '')}. Received: {match[1]}",
            message,
        )
        message = message.replace(
            "the following arguments are required:", "these options are required:"
        )
        self.exit(2, f"error: {message}\n")


def _join_pixels(words):
    """Write `--pixels -1..1` as one word; argparse would take the value for an option.

    Likewise for `--teacher-pixels` and `--student-pixels`.
    """
    joined = []
    for word in words:
        if joined and re.fullmatch(r"--(\w+-)?pixels", joined[-1]) and word in PIXELS:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


# === Options that several commands have ===


def add_data_options(parser, default=None, *, required=False, default_text=None):
    """Add the options that select images; `letkd_keras.data.DataSpec.from_options` reads them.

    Args:
        parser: `Parser`.
        default: Default of `--data`.
        required: Whether `--data` must be given.
        default_text: What the help says of a default that the command computes.
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
        "class folders (or train/ and val/), or an .npz file that python -m letkd_keras.data "
        f"wrote{computed}",
    )
    add("--data-dir", type=path, metavar="DIR", help="folder of tensorflow-datasets")
    add(
        "--image-size",
        type=image_size,
        metavar="N",
        help="height and width, for data whose images have no fixed size",
    )
    add(
        "--pixels",
        type=choice(*PIXELS),
        metavar="SCALE",
        help="what the networks take: 0..255, 0..1, -1..1, or imagenet (mean and standard deviation"
        " of ImageNet); default: mean and standard deviation of the data set",
    )
    add("--classes", type=class_count, metavar="N", help="use the first N classes only")
    add(
        "--train-examples",
        type=positive_integer,
        metavar="N",
        help="use N training images only, classes in the same proportion",
    )
    add(
        "--test-examples",
        type=positive_integer,
        metavar="N",
        help="use N test images only, classes in the same proportion",
    )
    add(
        "--validation-fraction",
        type=share,
        metavar="F",
        default=0.0,
        help="share of the training images that is held out to choose epochs and sizes by",
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
        help="folder of further training images without labels: all losses but the cross-entropy "
        "use them",
    )
    add(
        "--labelled-share",
        type=fraction,
        metavar="F",
        help="share of the training images that keep their labels, to see what few labels do "
        "(default: all)",
    )


def add_prototype_options(
    parser,
    *,
    templates=4096,
    subclasses=8,
    components=60,
    iterations=20,
    memory=None,
    feature_cache=None,
):
    """Add the options of the prototype fit.

    Args:
        parser: `Parser`.
        templates: Default of `--templates`.
        subclasses: Default of `--subclasses`.
        components: Default of `--components`.
        iterations: Default of `--iterations`.
        memory: Default of `--memory`, bytes; `None` is that of `fit_prototypes`.
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
        default=memory,
        help="memory for feature vectors, such as 800M or 2G (default: 256M, or what 256 vectors "
        "for each center of a k-means need)",
    )
    add(
        "--feature-cache",
        type=choice("float32", "float16", "none"),
        metavar="TYPE",
        default=feature_cache,
        help="float32 or float16: keep all feature vectors on disk, so that the k-means uses all "
        "of them rather than those that fit into --memory",
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
        "--seed", type=seed, metavar="N", default=0, help="seed of everything that is random"
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


def add_formats_option(parser, default=("savedmodel", "tflite")):
    """Add `--formats`, a list separated by spaces."""
    parser.add_argument(
        "--formats",
        nargs="+",
        type=list_item,
        metavar="FORMAT",
        default=list(default),
        help="formats to export the student to, or all",
    )


def add_methods_option(parser, default):
    """Add `--methods`, a list separated by spaces."""
    parser.add_argument(
        "--methods",
        nargs="+",
        type=list_item,
        metavar="METHOD",
        default=list(default),
        help="methods to train students with, see python -m letkd_keras.recipes --list",
    )


# === Running a command ===


def run_main(main, *, interrupted="interrupted; the same command continues where it stopped"):
    """Run the `main()` of a command and end the process with its exit status.

    A refusal (`ValueError`, `OSError`, `ImportError`, `FloatingPointError`, `MemoryError`) is
    printed as one line, and names the options that were typed rather than the arguments;
    the status is 2. `LETKD_TRACEBACK=1` shows the traceback instead. Ctrl-C prints one line and the
    status is 130; SIGTERM ends with 143.

    Args:
        main: Function without arguments. An integer that it returns is the exit status.
        interrupted: Line to print after Ctrl-C.

    Raises:
        SystemExit: Always.
    """
    set_up_logging()
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads the output any more (`| head`). Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        if os.environ.get("LETKD_TRACEBACK"):
            raise
        print(f"error: {describe(error)}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        status = 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, previous)
    raise SystemExit(status if isinstance(status, int) else 0)


def set_up_logging():
    """Show this package's messages and errors of other packages, one line each.

    What TensorFlow writes while it is imported and looks for devices goes to the log file (see
    `letkd_keras.log_file`). It has to be called before TensorFlow is imported.
    """
    # Errors of TensorFlow's C++ code are shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _separate_stderr()
    logging.captureWarnings(True)
    root = logging.getLogger()
    if not root.handlers:
        handler = _TerminalHandler()
        handler.addFilter(_is_shown)
        root.addHandler(handler)
    logging.getLogger("letkd_keras").setLevel(logging.INFO)
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietImport("tensorflow"))


class _TerminalHandler(logging.Handler):
    """Writes messages to `sys.stderr` as it is at that moment, wrapped in a terminal."""

    def emit(self, record):
        try:
            message = self.format(record)
            if sys.stderr.isatty():
                message = _wrapped(message)
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _wrapped(message):
    width = shutil.get_terminal_size().columns
    lines = (
        # Paths and words are kept whole, so that they can be copied.
        textwrap.wrap(
            line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        for line in message.splitlines()
    )
    return "\n".join("\n".join(line) for line in lines)


def _separate_stderr():
    """Give Python its own copy of stderr: only C++ code is redirected by `stderr_to_log`."""
    try:
        shared = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # replaced by a program or a test
        return
    if shared:
        sys.stderr = os.fdopen(
            os.dup(2),
            "w",
            buffering=1,
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
        )
        # Where the process aborts meanwhile, the terminal shows where it was.
        faulthandler.enable(sys.stderr)


class _QuietImport:
    """Keep what TensorFlow's C++ code writes to stderr while it is imported for the log file.

    It writes some before it has read `TF_CPP_MIN_LOG_LEVEL`, and complains where there is no GPU.
    """

    def __init__(self, name):
        self.name = name

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self._execute(execute, module)
        return spec

    @staticmethod
    def _execute(execute, module):
        with stderr_to_log():
            execute(module)
            # The drivers are looked for now. TensorFlow can still be configured afterwards.
            if hasattr(module, "config"):
                module.config.list_physical_devices()


def _is_shown(record):
    if record.name.split(".")[0] == "letkd_keras":
        return record.levelno >= logging.INFO
    return record.levelno >= logging.ERROR


def describe(error, arguments=None):
    """Describe a refusal in one line.

    Args:
        error: The exception.
        arguments: Command line as typed; `None` is that of the process. Where an argument of a
            function is named in the message and its option was typed, the option is named instead.

    Returns:
        A text without line breaks.
    """
    message = _message_of(error)
    typed = {word.split("=")[0] for word in (sys.argv[1:] if arguments is None else arguments)}
    for option in sorted(word for word in typed if word.startswith("--")):
        name = option[2:].replace("-", "_")
        message = message.replace(f"`{name}`", option)
        message = re.sub(rf"(Received: (?:.*, )?){re.escape(name)}=", r"\1", message)
    return " ".join(message.split())


def _message_of(error):
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({error})" if str(error) else "there is no memory left"
    if isinstance(error, OSError) and error.strerror:
        files = [str(name) for name in (error.filename, error.filename2) if name is not None]
        message = f"{error.strerror}: {' and '.join(files)}" if files else error.strerror
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += ". Free some space and run the same command again"
        return message
    return str(error) or type(error).__name__
