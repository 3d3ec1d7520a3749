"""What all commands share: the parser, and how they run and end.

Only the standard library is imported, so that `--help` and a wrong option are answered at once. A
command's module looks like this:

    from letkd_keras.commands.command_line import Parser, run_main
    from letkd_keras.commands.common_options import add_data_options

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
import errno
import os
import platform
import re
import signal
import sys
from pathlib import Path

from letkd_keras.commands.help_text import HelpFormatter, usage
from letkd_keras.commands.option_types import PIXELS
from letkd_keras.commands.terminal_log import set_up_logging
from letkd_keras.errors import did_you_mean

# === The parser ===


class Parser(argparse.ArgumentParser):
    """The parser of a command.

    The help fits the terminal and shows the default of every option. An error is one line that
    names the option, and exit status 2. Options cannot be abbreviated.

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
            formatter_class=HelpFormatter,
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

    def format_help(self):
        """Format the help, with a usage that is short where there are many options."""
        _, end, rest = super().format_help().partition("\n\n")
        return usage(self, self._actions) + end + rest

    def error(self, message):
        """Print one line and exit with status 2."""
        message = re.sub(r"^argument ([^:]+): ", r"\1 ", message)
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


# === Running a command ===

_REFUSALS = (ValueError, OSError, ImportError, FloatingPointError, MemoryError)


def run_main(main, *, interrupted="interrupted; the same command continues where it stopped"):
    """Run the `main()` of a command and end the process with its exit status.

    A refusal (`ValueError`, `OSError`, `ImportError`, `FloatingPointError`, `MemoryError`) is
    printed as one line, and names the options that were typed rather than the arguments;
    the status is 2. `LETKD_TRACEBACK=1` shows the traceback instead. Ctrl-C and SIGTERM print one
    line; the status is 130 or 143.

    Args:
        main: Function without arguments. An integer that it returns is the exit status.
        interrupted: Line to print after Ctrl-C or SIGTERM.

    Raises:
        SystemExit: Always.
    """
    # Python has no streams where the descriptors are closed (`>&-`).
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    received = []

    def stop(number, frame):
        received.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    # A command that was started in the background of a shell ignores Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        set_up_logging()
        os.environ |= tensorflow_environment()
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads the output any more (`| head`). Python would complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except (Exception, SystemExit) as error:
        if received:
            # What `stop` raised, or an error that C++ code of TensorFlow put in its place.
            status = 128 + received[0]
        elif isinstance(error, _REFUSALS) and not os.environ.get("LETKD_TRACEBACK"):
            print(f"error: {describe(error)}", file=sys.stderr)
            status = 2
        else:
            raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print(interrupted, file=sys.stderr)
    raise SystemExit(status if isinstance(status, int) else 0)


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


def tensorflow_environment():
    """Environment variables with which commands start TensorFlow.

    TensorFlow leaves oneDNN off on x86 processors without AVX-512. With oneDNN it trains faster
    there too, and it can convolve channels-first images.

    Returns:
        Dictionary. A variable that is set already keeps its value.
    """
    name = "TF_ENABLE_ONEDNN_OPTS"
    return {name: os.environ.get(name, "1")} if platform.machine() == "x86_64" else {}
