import errno
import os
import signal
import subprocess
import sys

import pytest
from in_a_process import in_a_process

from letkd_keras import ranges
from letkd_keras.commands import command_line, option_types, ray_cluster, terminal
from letkd_keras.commands.command_line import Parser, describe, run_main
from letkd_keras.commands.common_options import (
    add_data_options,
    add_formats_option,
    add_methods_option,
    add_out_option,
    add_prototype_options,
    add_seed_option,
)
from letkd_keras.commands.option_types import byte_count, output_file
from letkd_keras.data import __main__ as data_command


@pytest.fixture
def parser():
    parser = Parser("letkd_keras.example", "What it does.\n\n    an example")
    add_data_options(parser, default="digits")
    add_prototype_options(parser)
    add_seed_option(parser)
    add_out_option(parser, "runs/DATA")
    add_formats_option(parser)
    add_methods_option(parser, ["student", "letkd2"])
    parser.add_argument("--learning-rate", type=ranges.positive_number, default=0.05, help="rate")
    parser.add_argument("--task-weight", type=ranges.non_negative_number, default=1.0)
    parser.add_argument("--sparsity", type=ranges.positive_fraction, default=0.5)
    parser.add_argument("--teacher-epochs", type=ranges.positive_integer)
    parser.add_argument("--warm-up-steps", type=ranges.non_negative_integer, default=0)
    parser.add_argument("--teacher", type=option_types.text)
    parser.add_argument("--npz", type=output_file(".npz"))
    return parser


def refusal(parser, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(arguments)
    output = capsys.readouterr()
    assert end.value.code == 2 and output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    return output.err.removeprefix("error: ").rstrip("\n")


INTEGER = "must be an integer of at least"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--templates 0", f"--templates {INTEGER} 1. Received: '0'"),
        ("--templates 1e3", f"--templates {INTEGER} 1. Received: '1e3'"),
        ("--subclasses 0", f"--subclasses {INTEGER} 1. Received: '0'"),
        ("--components -4", f"--components {INTEGER} 1. Received: '-4'"),
        ("--iterations x", f"--iterations {INTEGER} 1. Received: 'x'"),
        ("--teacher-epochs 0", f"--teacher-epochs {INTEGER} 1. Received: '0'"),
        (
            "--teacher-epochs 99999999999",
            f"--teacher-epochs {INTEGER} 1 and at most 2147483647. Received: '99999999999'",
        ),
        ("--warm-up-steps -1", f"--warm-up-steps {INTEGER} 0. Received: '-1'"),
        ("--seed 1e30", f"--seed {INTEGER} 0. Received: '1e30'"),
        ("--seed -1", f"--seed {INTEGER} 0. Received: '-1'"),
        ("--classes 1", f"--classes {INTEGER} 2. Received: '1'"),
        ("--train-examples 0", f"--train-examples {INTEGER} 1. Received: '0'"),
        ("--image-size 0", "--image-size must be an integer from 8 to 4096. Received: '0'"),
        ("--image-size 100000", "--image-size must be an integer from 8 to 4096. Received: '1000"),
        (
            "--learning-rate 0",
            "--learning-rate must be a finite number greater than 0. Received: '0",
        ),
        (
            "--learning-rate -1",
            "--learning-rate must be a finite number greater than 0. Received: '",
        ),
        ("--learning-rate nan", "--learning-rate must be a finite number greater than 0. Received"),
        ("--learning-rate inf", "--learning-rate must be a finite number greater than 0. Received"),
        (
            "--task-weight -0.1",
            "--task-weight must be a finite number of at least 0. Received: '-0",
        ),
        (
            "--validation-fraction nan",
            "--validation-fraction must be a finite number of at least 0",
        ),
        ("--validation-fraction 1", "--validation-fraction must be a finite number of at least 0 "),
        ("--sparsity 0", "--sparsity must be a finite number greater than 0 and less than 1. Rece"),
        ("--memory 1e400", "--memory must be a number of bytes such as 800M or 2G, at most 1024T."),
        ("--memory nan", "--memory must be a number of bytes such as 800M or 2G, at most 1024T."),
        ("--memory 0", "--memory must be a number of bytes such as 800M or 2G, at most 1024T. Rec"),
        ("--memory 5X", "--memory must be a number of bytes such as 800M or 2G, at most 1024T. Re"),
        ("--feature-cache float61", "--feature-cache must be one of float32, float16, none. Rec"),
        ("--pixels centred", "--pixels must be one of 0..255, 0..1, -1..1, imagenet. Received: 'c"),
        ("--formats savedmodel,tflite", "--formats must be a list separated by spaces, not by com"),
        ("--template 5", "there is no option --template. Did you mean --templates?"),
        ("--frobnicate", "there is no option --frobnicate. See --help"),
        ("extra", "there is no argument extra. See --help"),
        ("--seed", "--seed expected one argument"),
        ("--npz file.txt", "--npz must be a file whose name ends in .npz. Received: 'file.txt'"),
    ],
)
def test_wrong_options_are_one_sentence(arguments, message, parser, capsys):
    assert refusal(parser, arguments.split(), capsys).startswith(message)


@pytest.mark.parametrize("value", ["", "  ", "a\0b"])
def test_empty_texts_are_refused(value, parser, capsys):
    assert refusal(parser, ["--teacher", value], capsys).startswith(
        "--teacher must be a text that is not empty. Received: "
    )
    assert refusal(parser, ["--out", value], capsys).startswith("--out must be a text")


def test_texts_that_cannot_be_encoded_are_refused(parser, capsys):
    expected = r"--teacher must be a text that can be encoded as UTF-8. Received: '\udce4'"
    assert refusal(parser, ["--teacher", "\udce4"], capsys) == expected


def test_a_folder_is_no_output_file(parser, capsys, tmp_path):
    (tmp_path / "x.npz").mkdir()
    message = refusal(parser, ["--npz", str(tmp_path / "x.npz")], capsys)
    assert message.startswith("--npz must be a file, not a folder. Received: ")


def test_missing_option_is_named(capsys):
    parser = Parser("x", "")
    add_out_option(parser, required=True)
    assert refusal(parser, [], capsys) == "these options are required: --out"


def test_long_values_are_shortened(parser, capsys):
    assert len(refusal(parser, ["--seed", "9" * 10_000], capsys)) < 200


def test_values_are_converted(parser):
    words = "--memory 1.5G --seed 3 --pixels -1..1 --formats tflite savedmodel --image-size 32"
    words += " --validation-fraction 0 --learning-rate 1e-3"
    options = parser.parse_args(words.split(" "))
    assert options.memory == 3 * 2**29 and options.seed == 3 and options.pixels == "-1..1"
    assert options.formats == ["tflite", "savedmodel"] and options.image_size == 32
    assert options.validation_fraction == 0 and options.learning_rate == 1e-3
    assert options.methods == ["student", "letkd2"] and options.data == "digits"
    assert [byte_count(text) for text in ("1", "2K", "3m", "1T")] == [1, 2**11, 3 * 2**20, 2**40]


def test_help_shows_every_default(parser, capsys):
    with pytest.raises(SystemExit) as end:
        parser.parse_args(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "usage: python -m letkd_keras.example",
        "(default: 4096)",
        "(default: 256M, or what 256 vectors for each center of a k-means need)",
        "(default: digits)",
        "(default: savedmodel tflite)",
        "(default: student letkd2)",
        "(default: runs/DATA)",
        "(default: 0.05)",
        "(default: 0.0)",
    ):
        assert expected in text
    assert "None" not in text and "False" not in text and "an example" in text


# === How a command ends ===


def status_of(main):
    with pytest.raises(SystemExit) as end:
        run_main(main)
    return end.value.code


def raises(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("`x` must be\n  positive"), "`x` must be positive"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.npz"), "No such file: a.npz"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device. Free some space and run the same command again",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "Permission denied: /x"),
        (OSError(errno.EXDEV, "Another device", "/x", None, "/y"), "Another device: /x and /y"),
        (ImportError("pip install x"), "pip install x"),
        (FloatingPointError("loss is NaN"), "loss is NaN"),
        (MemoryError(), "there is no memory left"),
    ],
)
def test_refusals_are_one_line_and_status_2(error, message, capsys, monkeypatch):
    monkeypatch.delenv("LETKD_TRACEBACK", raising=False)
    assert status_of(raises(error)) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_traceback_on_request_and_for_mistakes_in_the_program(monkeypatch):
    monkeypatch.setenv("LETKD_TRACEBACK", "1")
    with pytest.raises(ValueError, match="shown"):
        run_main(raises(ValueError("shown")))
    monkeypatch.delenv("LETKD_TRACEBACK")
    with pytest.raises(KeyError):
        run_main(raises(KeyError("a bug")))


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_closed_streams_are_no_error(stream, monkeypatch):
    monkeypatch.setattr(sys, stream, None)

    def main():
        terminal.print_table(["format"], [["tflite"]])
        raise ValueError("refused")

    assert status_of(main) == 2
    assert status_of(lambda: None) == 0


def test_ctrl_c_is_one_line_and_status_130(capsys):
    assert status_of(raises(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.startswith("interrupted; the same command continues")


def test_ctrl_c_before_the_command_begins(monkeypatch):
    monkeypatch.setattr(command_line, "set_up_logging", raises(KeyboardInterrupt()))
    assert status_of(lambda: 0) == 130


def test_sigterm_is_one_line_and_status_143_and_cleans_up(capsys):
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def main():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)

    assert status_of(main) == 143 and cleaned
    assert capsys.readouterr().err == ("interrupted; the same command continues where it stopped\n")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_counts_where_its_exception_was_replaced(number, status, capsys):
    # As C++ code of TensorFlow does it.
    def main():
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise RuntimeError("MISMATCH of original and normalized exception") from error

    # A shell has background jobs, such as `make test &`, ignore Ctrl-C.
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, default)
    try:
        assert status_of(main) == status
        assert capsys.readouterr().err.startswith("interrupted; the same command continues")
        assert signal.getsignal(number) is default
    finally:
        signal.signal(number, before)


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert status_of(lambda: signal.raise_signal(signal.SIGINT)) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_output_that_nobody_reads_ends_the_command_quietly():
    read, write = os.pipe()
    os.close(read)
    arguments = [sys.executable, "-m", "letkd_keras"]
    result = subprocess.run(arguments, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("result, status", [(None, 0), ({"top1": 1.0}, 0), (3, 3)])
def test_status_of_a_command_that_ends(result, status):
    assert status_of(lambda: result) == status


@pytest.mark.parametrize(
    ("machine", "value", "expected"),
    [("x86_64", None, "1"), ("x86_64", "0", "0"), ("aarch64", None, None)],
)
def test_commands_turn_onednn_on(machine, value, expected, monkeypatch):
    monkeypatch.setattr(command_line.platform, "machine", lambda: machine)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", value or "")
    if value is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    assert status_of(lambda: None) == 0
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == expected
    assert ray_cluster.environment_of_workers("jax").get("TF_ENABLE_ONEDNN_OPTS") == expected


def test_errors_name_the_option_that_was_typed():
    error = ValueError("`image_size` must be 8. Received: image_size=3, mean=1")
    assert describe(error, ["--image-size", "3"]) == "--image-size must be 8. Received: 3, mean=1"
    assert describe(error, ["--image-size=3"]).startswith("--image-size must")
    assert describe(error, ["--mean", "1"]).endswith("Received: image_size=3, 1")
    assert describe(error, ["--seed", "3"]) == str(error)


# === The commands ===


@pytest.mark.parametrize("module", ["letkd_keras", "letkd_keras.data", "letkd_keras.models"])
def test_help_imports_nothing_heavy_and_logs_nothing(module):
    result = in_a_process("command_without_tensorflow.py", module, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(f"usage: python -m {module} ")
    assert result.stdout.endswith("imported:\n")


def test_list_of_commands():
    result = in_a_process("command_without_tensorflow.py", "letkd_keras")
    assert result.returncode == 0 and result.stderr == ""
    _, *lines, imported = result.stdout.splitlines()
    assert imported == "imported:"
    assert max(len(line) for line in lines) <= 80
    commands = {
        line.split()[2]: description
        for line, description in zip(lines[::2], lines[1::2], strict=True)
    }
    assert {"letkd_keras.data", "letkd_keras.models", "letkd_keras.recipes.cifar100"} <= set(
        commands
    )
    assert all(description.endswith(".") for description in commands.values())


def test_wrong_option_is_refused_before_anything_heavy():
    result = in_a_process("command_without_tensorflow.py", "letkd_keras.data", "--image-size", "0")
    assert result.returncode == 2 and result.stdout == "imported:\n"
    expected = "error: --image-size must be an integer from 8 to 4096. Received: '0'\n"
    assert result.stderr == expected


def test_data_command_writes_a_file_without_log_lines(tmp_path):
    arguments = ["letkd_keras.data", "--data", "digits", "--train-examples", "50"]
    result = in_a_process(
        "command_without_tensorflow.py", *arguments, "--out", tmp_path / "digits.npz"
    )
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.startswith(
        f"{tmp_path / 'digits.npz'}: digits, 50 training and 599 test images (stratified"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["digits.npz"]


def test_data_command_counts_validation_images(tmp_path, capsys):
    out = str(tmp_path / "digits.npz")
    data_command.main(["--data", "digits", "--validation-fraction", "0.25", "--out", out])
    assert "digits, 898 training, 300 validation and 599 test images (" in capsys.readouterr().out


def test_data_command_names_the_option(tmp_path):
    arguments = ["letkd_keras.data", "--data", "digits", "--classes", "11"]
    result = in_a_process(
        "command_without_tensorflow.py", *arguments, "--out", tmp_path / "digits.npz"
    )
    assert result.returncode == 2
    assert result.stderr == "error: --classes must be between 2 and 10. Received: 11\n"
