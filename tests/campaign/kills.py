"""Kill commands at random moments, repeat them until they end, and compare what they leave.

    python tests/campaign/kills.py --kills 40

For every command: one undisturbed run, then runs that get SIGKILL, SIGTERM or SIGINT at a random
moment and are repeated with the same command line until they end. When one has ended, the next
sequence begins in a new folder, until there were as many kills as wanted. Each end must be the one
of the undisturbed run: the same files, equal metrics and weights bit for bit (in TensorFlow's
deterministic mode), equal artifacts, nothing left over. A table is printed. The exit status is 1 if
anything differed.

A process for each start is forked from this one, which has imported TensorFlow and not used it.
"""

import argparse
import csv
import gc
import hashlib
import importlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# What run_main makes of a signal; SIGKILL ends a process at once.
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
# Starts that a sequence may need: a moment can come before any progress.
_MOST_STARTS = 200

# Networks of two convolutions: building and tracing a network of the zoo takes most of a short run.
_SMALL = (
    "--train-examples 60 --test-examples 20 --batch-size 20 --teacher GIVEN/teacher.keras "
    "--student GIVEN/plain_student.keras --fine-tune-epochs 2 --epochs 2 --templates 16 "
    "--subclasses 2 --components 3 --iterations 3"
)
COMMANDS = {
    "recipes.digits": f"{_SMALL} --methods letkd2 --formats tflite --out OUT/run",
    "recipes.compare": f"{_SMALL} --methods student kd --out OUT/run",
    "prototypes": "--teacher GIVEN/teacher.keras --data digits --templates 64 --subclasses 4 "
    "--iterations 40 --feature-cache float32 --batch-size 32 --out OUT/p.npz",
    "export": "GIVEN/student.keras --formats savedmodel tflite --out OUT/exported",
    "data": "--data digits --out OUT/digits.npz",
    # Files of images: a new head of the teacher, images without labels, training for int8.
    "recipes.folder": "--data GIVEN/photos --unlabelled GIVEN/photos_unlabelled --image-size 32 "
    "--teacher GIVEN/teacher.keras --student GIVEN/plain_student.keras --methods letkd2 "
    "--head-epochs 1 --fine-tune-epochs 1 --epochs 2 --quantization-aware-epochs 1 --batch-size 8 "
    "--templates 12 --subclasses 2 --components 2 --iterations 3 --formats tflite-int8 "
    "--out OUT/run",
    # Images that are read from their files in each epoch.
    "recipes.imagenet": "--data imagenet:GIVEN/photos --image-size 32 "
    "--teacher GIVEN/teacher.keras --student GIVEN/plain_student.keras --methods letkd2 "
    "--epochs 2 --batch-size 8 --templates 12 --subclasses 2 --components 2 --iterations 3 "
    "--formats tflite --out OUT/run",
}


@dataclass
class Result:
    """What happened to a command.

    Attributes:
        seconds: Time of the undisturbed run.
        kills: How often each signal ended a process.
        sequences: How many sequences came to their end.
        errors: What differed, or how a process ended that should have ended otherwise.
    """

    seconds: float = 0.0
    kills: dict = field(default_factory=lambda: {number.name: 0 for number in SIGNALS})
    sequences: int = 0
    errors: list = field(default_factory=list)


# === Processes ===


def start(module, words, log):
    """Fork a process that runs a command; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()  # Ctrl-C in the terminal of the driver is not one of the signals
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _run(module, words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(module, words):
    import tensorflow as tf

    from letkd_keras.commands.command_line import run_main

    tf.config.experimental.enable_op_determinism()
    sys.argv = [module, *words]
    run_main(_main_of(module))


def _main_of(module):
    name = f"letkd_keras.{module}"
    spec = importlib.util.find_spec(name)
    name = f"{name}.__main__" if spec.submodule_search_locations is not None else name
    return importlib.import_module(name).main


def wait(child, seconds=None):
    """Wait for a process, at most so long; returns its status (as subprocess has it) or `None`."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.002)


# === One command ===


def attack(module, given, folder, kills, moments):
    """Run a command undisturbed, then kill it so often; returns `Result`."""
    result = Result()
    expected_folder = folder / "undisturbed"
    begun = time.monotonic()
    status = wait(start(module, words(module, given, expected_folder), folder / "log.txt"))
    result.seconds = time.monotonic() - begun
    if status:
        result.errors.append(f"the undisturbed run ended with {status}")
        return result
    expected = contents(expected_folder)
    while sum(result.kills.values()) < kills and len(result.errors) < 3:
        out = folder / f"sequence{result.sequences}"
        _sequence(module, words(module, given, out), folder / "log.txt", kills, moments, result)
        found = contents(out)
        different = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        if different:
            result.errors.append(f"sequence {result.sequences}: {', '.join(different[:5])} differ")
        else:
            shutil.rmtree(out)
        result.sequences += 1
    return result


def words(module, given, out):
    out.mkdir(exist_ok=True)
    return COMMANDS[module].replace("GIVEN", str(given)).replace("OUT", str(out)).split()


def _sequence(module, words, log, kills, moments, result):
    for _ in range(_MOST_STARTS):
        child = start(module, words, log)
        if sum(result.kills.values()) < kills:
            status = wait(child, moments.uniform(0, result.seconds))
            if status is None:
                number = moments.choice(SIGNALS)
                os.kill(child, number)
                status = wait(child)
                if status == STATUS[number]:
                    result.kills[number.name] += 1
                    continue
                # Otherwise the signal came after the end.
        else:
            status = wait(child)
        if status:
            result.errors.append(f"a process ended with {status}")
        return
    result.errors.append(f"no end after {_MOST_STARTS} starts")


# === What a command leaves ===

# Of a result: times, and checksums of files that have times inside.
_VARYING = {"seconds", "sha256", "model_sha256"}


def contents(folder):
    """What the files of a folder say, apart from times.

    Returns:
        Dictionary from names to digests. Of reports, logs, pictures and files for TensorBoard it
        has the names only. A file left over has a name that the undisturbed run does not have.
    """
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if file.name == ".lock":
            continue
        if "/tensorboard/" in name:
            continue  # a file for each start
        try:
            found[name] = _digest(file)
        except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
            found[name] = f"damaged: {error}"
    return found


def _digest(file):
    if file.suffix == ".keras":
        with zipfile.ZipFile(file) as archive:
            return _of_weights(archive.read("model.weights.h5"))
    if file.name == "metrics.csv":
        rows = list(csv.DictReader(file.open(newline="")))
        return _of_json([_without_times(row) for row in rows])
    if file.name == "result.json":
        return _of_json(_without_times(json.loads(file.read_text())))
    if file.suffix in (".npz", ".tflite", ".onnx") or file.name == "config.json":
        content = file.read_bytes()
        if file.name == "config.json":
            content = re.sub(rb'"[^"]*/sequence\d+|"[^"]*/undisturbed', b'"', content)
        return hashlib.sha256(content).hexdigest()
    return "exists"


def _without_times(row):
    return {name: value for name, value in row.items() if name not in _VARYING}


def _of_json(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _of_weights(content):
    import h5py

    digest = hashlib.sha256()

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            digest.update(f"{name} {item.shape} {item.dtype}\n".encode())
            digest.update(item[()].tobytes())

    with h5py.File(io.BytesIO(content)) as weights:
        weights.visititems(add)
    return digest.hexdigest()


# === The driver ===


def write_given(folder):
    """Write the files that commands are given into an empty folder."""
    from image_trees import COLOURS, write_tree
    from random_students import with_kd_layers
    from small_problem import small_teacher

    small_teacher(num_classes=10, size=32).save(folder / "teacher.keras")
    small_teacher(num_classes=10, size=32, width=4, seed=1).save(folder / "plain_student.keras")
    with_kd_layers("resnet8", classes=10, size=32).save(folder / "student.keras")
    for part, images in (("train", 8), ("val", 4)):
        write_tree(folder / "photos" / part, images=images, suffix=".jpg", size=(40, 36))
    two_classes = dict(list(COLOURS.items())[:2])
    write_tree(folder / "photos_unlabelled", images=6, colours=two_classes, size=(40, 36))


def _write_given_in_a_process(folder, log):
    child = os.fork()
    if not child:
        status = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 2)
            folder.mkdir()
            write_given(folder)
            status = 0
        finally:
            os._exit(status)
    if wait(child):
        raise SystemExit(f"the networks could not be written, see {log}")


def main(arguments=None):
    """Attack the commands and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="kills of each command (40)")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and signals (0)")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--seconds", type=float, help="begin no command after so many seconds")
    options = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path[:0] = [str(Path(__file__).parents[1] / "helpers")]
    for module in options.commands:
        _main_of(module)

    failed, begun = False, time.monotonic()
    print("| command | undisturbed | SIGKILL | SIGTERM | SIGINT | sequences | differences |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        _write_given_in_a_process(folder / "given", folder / "log.txt")
        gc.freeze()  # a forked process would copy every page that its garbage collector looks at
        for module in options.commands:
            if options.seconds and time.monotonic() - begun > options.seconds:
                print(f"| `{module}` | not run: no time was left |", flush=True)
                continue
            (folder / module).mkdir()
            moments = random.Random(f"{options.seed} {module}")
            result = attack(module, folder / "given", folder / module, options.kills, moments)
            kills = " | ".join(str(result.kills[number.name]) for number in SIGNALS)
            different = "; ".join(result.errors) or "none"
            print(
                f"| `{module}` | {result.seconds:.1f} s | {kills} | {result.sequences} "
                f"| {different} |",
                flush=True,
            )
            if result.errors:
                failed = True
                print((folder / module / "log.txt").read_text()[-4000:], file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
