"""Measure the strength of the tests: change the program at one spot and see whether a test fails.

    python tests/campaign/mutants.py --sample 250 --seed 0

Every mutant is the program with one operator, number, condition, decorator or loop changed by
cosmic-ray. The sample is random, in proportion to the spots of each module. A mutant is killed if
one of the tests that run its statement fails; which tests these are was recorded in a run of the
unchanged program. The survivors are printed as differences of source lines.

Importing TensorFlow takes much longer than most tests. Each mutant therefore runs in a process that
is forked from this one, which has imported the libraries and nothing of this package. Nothing is
written into the source tree: the import system of the forked process gets the changed source.

Results are appended to mutants.jsonl in `--out`, and a repeated command continues there. A changed
module is tested again.
"""

import argparse
import ast
import gc
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import json
import linecache
import os
import random
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("layers", "losses", "distillers", "optimizers", "functional", "prototypes")
# Sizes and colours of pictures and the texts of commands have no right value.
_LEFT_OUT = ("__init__.py", "__main__.py", "pictures.py")
_LIBRARIES = (
    *("numpy", "scipy.linalg", "scipy.special", "scipy.optimize", "sklearn.cluster"),
    *("sklearn.discriminant_analysis", "matplotlib.figure", "PIL.Image", "rich.progress"),
    *("keras", "tensorflow", "faiss", "h5py", "filelock", "threadpoolctl", "pytest"),
)
# Operators that make floats and tensors raise TypeError, whatever a test looks at.
_BITS = ("RShift", "LShift", "BitOr", "BitAnd", "BitXor")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow")
# Operators that differ for two equal objects only.
_IDENTITY = {("Eq", "Is"), ("Is", "Eq"), ("NotEq", "IsNot"), ("IsNot", "NotEq")}


@dataclass(frozen=True)
class Mutant:
    """A change of a module.

    Attributes:
        module: Path of the source file below the repository.
        line: Line of the change, from 1.
        column: Its column, from 0.
        operator: Name of cosmic-ray's operator.
        occurrence: Which of the spots of this operator in the module is changed.
    """

    module: str
    line: int
    column: int
    operator: str
    occurrence: int


# === Mutants ===


def mutants_of(module, source):
    """All mutants of a module, as a dictionary from spots (line, column) to lists of `Mutant`."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast(source)
    spots = defaultdict(list)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or not _is_wanted(operator.__name__):
            continue
        operator = operator()
        positions = (start for node in ast_nodes(tree) for start, _ in _positions(operator, node))
        for occurrence, (line, column) in enumerate(positions):
            spots[line, column].append(Mutant(module, line, column, name, occurrence))
    return dict(sorted(spots.items()))


def _positions(operator, node):
    return operator.mutation_positions(node)


def _is_wanted(name):
    if "_" not in name:
        return True
    before, after = name.split("_")[1:]
    if (before in _ARITHMETIC and after in _BITS) or (before in _BITS and after in _ARITHMETIC):
        return False
    return (before, after) not in _IDENTITY


def mutated(mutant, source):
    """The source with the change, or `None` if that is no program."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    try:
        code = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    except AttributeError:  # cosmic-ray cannot exchange `zipfile.BadZipFile`, a name with a dot
        return None
    try:
        compile(code or "", mutant.module, "exec")
    except SyntaxError:
        return None
    return code if code != source else None


def sample(spots_of, size, seed):
    """Draw mutants at different spots, from each module in proportion to its spots.

    Args:
        spots_of: Dictionary from modules to their `mutants_of`.
        size: Number of mutants.
        seed: Seed of the draw.

    Returns:
        List of `Mutant`, in random order, so that a part of it is a sample as well. A change of
        one module hardly changes which mutants of the others are drawn.
    """
    total = sum(map(len, spots_of.values()))
    size = min(size, total)
    shares = {module: size * len(spots) / total for module, spots in spots_of.items()}
    counts = {module: int(share) for module, share in shares.items()}
    by_rest = sorted(shares, key=lambda module: (counts[module] - shares[module], module))
    for module in by_rest[: size - sum(counts.values())]:
        counts[module] += 1
    drawn = []
    for module, spots in sorted(spots_of.items()):
        numbers = random.Random(f"{seed} {module}")
        in_order = [numbers.choice(spots[spot]) for spot in sorted(spots)]
        numbers.shuffle(in_order)
        drawn += in_order[: counts[module]]
    random.Random(seed).shuffle(drawn)
    return drawn


def statement_lines(source, line):
    """What runs the statement that contains a line.

    Returns:
        `(own, outer)`: ranges of lines of the statement, without the statements inside it, and of
        the function or class around it. Python runs a statement outside of functions, and the head
        of a function, when it imports the module.
    """
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    around = [node for node in statements if _first_line(node) <= line <= node.end_lineno]
    innermost = max(around, key=lambda node: (_first_line(node), -node.end_lineno))
    scopes = [node for node in around if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    scope = max(scopes, key=_first_line, default=None)
    body = getattr(innermost, "body", None)
    last = body[0].lineno - 1 if body else innermost.end_lineno
    own = range(_first_line(innermost), max(last, line) + 1)
    outer = range(scope.lineno, scope.end_lineno + 1) if scope else range(1, 10**9)
    return own, outer


def _first_line(node):
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


# === Processes ===


def forked(function, log, cpu_seconds=None, wall_seconds=900):
    """Run a function in a forked process; returns its exit status, negative for a signal.

    Args:
        function: Function without arguments; it returns an exit status.
        log: File for its output.
        cpu_seconds: Processor time after which it is killed, however busy the machine is.
        wall_seconds: Time after which it is killed.
    """
    child = os.fork()
    if not child:
        status = 70
        try:
            os.setsid()
            if cpu_seconds:
                resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 1,) * 2)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            status = int(function())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    end = time.monotonic() + wall_seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.02)


def _run_tests(arguments, plugin):
    import pytest

    os.chdir(ROOT)
    return pytest.main(["-q", "-p", "no:cacheprovider", *arguments], plugins=[plugin])


class _MutatedModule(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Give one module a changed source, when it is imported."""

    def __init__(self, module, code):
        self.name = module.removesuffix(".py").replace("/", ".")
        self.path = str(ROOT / module)
        self.code = code
        # AutoGraph reads the source there. Entries without a time are never looked up on disk.
        linecache.cache[self.path] = (len(code), None, code.splitlines(keepends=True), self.path)

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_code(self, name):
        return compile(self.code, self.path, "exec", dont_inherit=True)


# === Which tests run which lines ===


class _Recorder:
    """A plugin of pytest that records what each test runs, and its processor time."""

    def __init__(self):
        self.tests, self.failed = {}, []
        self._prefix = f"{ROOT}/letkd_keras/"
        self._wanted = {}

    def pytest_runtest_protocol(self, item, nextitem):
        from _pytest.runner import runtestprotocol

        self.lines = defaultdict(set)
        begun = time.process_time()
        sys.settrace(self._call)
        try:
            reports = runtestprotocol(item, nextitem=nextitem)
        finally:
            sys.settrace(None)
        if any(report.failed for report in reports):
            self.failed.append(item.nodeid)
        elif any(report.when == "call" and report.passed for report in reports):
            self.tests[item.nodeid] = {
                "seconds": time.process_time() - begun,
                "lines": {module: sorted(lines) for module, lines in self.lines.items()},
            }
        return True

    def _call(self, frame, event, argument):
        code = frame.f_code
        module = self._wanted.get(code)
        if module is None:
            file = code.co_filename
            inside = file.startswith(self._prefix) and code.co_name != "<module>"
            module = self._wanted[code] = file[len(self._prefix) - 12 :] if inside else ""
        if not module:
            return None
        lines = self.lines[module]

        def trace(frame, event, argument):
            lines.add(frame.f_lineno)
            return trace

        return trace(frame, event, argument)


def recorded(test_files, out):
    """Run the unchanged program's tests, as far as no record of them exists.

    The record of a test file is used until the file or a module that its tests run is changed.

    Args:
        test_files: Test files, relative to the repository.
        out: Folder of the records.

    Returns:
        Dictionary from names of tests to their `seconds` and `lines`.

    Raises:
        SystemExit: If a test fails.
    """
    path = out / "tests.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    stale = [file for file in test_files if file not in known or not _is_fresh(known[file])]
    if stale:

        def record():
            recorder = _Recorder()
            status = _run_tests(stale, recorder)
            answer = {"failed": recorder.failed, "tests": recorder.tests}
            (out / "recorded.json").write_text(json.dumps(answer))
            return status

        print(f"running the unchanged program's tests of {len(stale)} files", flush=True)
        begun = time.monotonic()
        status = forked(record, out / "log.txt", wall_seconds=3600)
        print(f"{time.monotonic() - begun:.0f} s", flush=True)
        if status not in (0, 5):
            raise SystemExit((out / "log.txt").read_text()[-3000:])
        answer = json.loads((out / "recorded.json").read_text())
        for file in stale:
            tests = {
                name: test for name, test in answer["tests"].items() if name.split("::")[0] == file
            }
            run = sorted({module for test in tests.values() for module in test["lines"]})
            known[file] = {
                "digests": {name: _digest(ROOT / name) for name in [file, *run]},
                "tests": tests,
            }
        path.write_text(json.dumps(known))
    return {name: test for file in test_files for name, test in known[file]["tests"].items()}


def _is_fresh(record):
    return all(
        (ROOT / name).exists() and _digest(ROOT / name) == digest
        for name, digest in record["digests"].items()
    )


def tests_for(mutant, source, tests, seconds):
    """The tests that run the statement of a mutant: those of its own file first, quick ones first.

    Args:
        mutant: `Mutant`.
        source: Source of its module.
        tests: Return value of `recorded`.
        seconds: No test is added when so much processor time is reached.

    Returns:
        List of names.
    """
    own, outer = statement_lines(source, mutant.line)
    running = {name: test["lines"].get(mutant.module, ()) for name, test in tests.items()}
    names = [name for name, lines in running.items() if not set(own).isdisjoint(lines)]
    own_file = f"test_{Path(mutant.module).name}"
    if not names:
        names = [
            name
            for name, lines in running.items()
            if own_file in name or any(line in outer for line in lines)
        ]
    names.sort(key=lambda name: (own_file not in name.split("::")[0], tests[name]["seconds"]))
    chosen, total = [], 0.0
    for name in names:
        if chosen and total > seconds:
            break
        chosen.append(name)
        total += tests[name]["seconds"]
    return chosen


# === One mutant ===


class _Selection:
    """A plugin of pytest that runs some tests in an order, and names the first that fails."""

    def __init__(self, names, answer):
        self.order = {name: number for number, name in enumerate(names)}
        self.answer = answer

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order),
            key=lambda item: self.order[item.nodeid],
        )

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.answer.write_text(report.nodeid)


def attack(mutant, code, names, seconds, out):
    """Run tests on a mutant.

    Returns:
        `(outcome, test)`: "killed", "timeout" or "survived", and the test that failed.
    """
    answer = out / "failed.txt"
    answer.write_text("")

    def test():
        sys.meta_path.insert(0, _MutatedModule(mutant.module, code))
        files = dict.fromkeys(name.split("::")[0] for name in names)
        return _run_tests(["-x", "--tb=line", *files], _Selection(names, answer))

    status = forked(test, out / "log.txt", cpu_seconds=30 + 5 * seconds)
    if status == 0:
        return "survived", None
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout", None
    return "killed", answer.read_text() or "the import"


# === The driver ===


def modules():
    """Paths of the modules that are changed, relative to the repository."""
    files = (file for package in PACKAGES for file in (ROOT / "letkd_keras" / package).glob("*.py"))
    return sorted(file.relative_to(ROOT).as_posix() for file in files if file.name not in _LEFT_OUT)


def _test_files():
    return sorted(
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / "tests" / package).glob("test_*.py")
    )


def _digest(*files):
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _prepare():
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "2")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.path.insert(0, str(ROOT))
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # a forked process would copy every page that its garbage collector looks at


def main(arguments=None):
    """Test a sample of mutants and print its score."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=250, help="number of mutants (250)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (0)")
    parser.add_argument("--modules", nargs="+", metavar="TEXT", help="paths with one of these")
    parser.add_argument("--limit", type=float, default=8, help="seconds of tests a mutant (8)")
    parser.add_argument("--seconds", type=float, help="begin no mutant after so many seconds")
    parser.add_argument("--again", action="store_true", help="test the survivors again")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    _prepare()
    sources = {module: (ROOT / module).read_text() for module in modules()}
    spots_of = {module: mutants_of(module, source) for module, source in sources.items()}
    drawn = sample(spots_of, options.sample, options.seed)
    if options.modules:
        drawn = [m for m in drawn if any(text in m.module for text in options.modules)]
    tests = recorded(_test_files(), options.out)

    path = options.out / "mutants.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    known = {row["key"]: row for row in map(json.loads, lines)}
    rows = []
    with path.open("a") as results:
        for mutant in drawn:
            source = sources[mutant.module]
            key = f"{_digest(ROOT / mutant.module)} {json.dumps(asdict(mutant))}"
            row = known.get(key)
            if row is None or (options.again and row["outcome"] == "survived"):
                if options.seconds and time.monotonic() - begun > options.seconds:
                    continue
                row = {**_test(mutant, source, tests, options), "key": key}
                results.write(json.dumps(row) + "\n")
                results.flush()
                print(_line(row), flush=True)
            rows.append(row)
    return _report(rows, sum(map(len, spots_of.values())), len(drawn))


def _test(mutant, source, tests, options):
    row = {**asdict(mutant), "tests": 0, "test": None}
    code = mutated(mutant, source)
    if code is None:
        return {**row, "outcome": "no program"}
    before, after = source.splitlines(), code.splitlines()
    # A decorator that is removed leaves a line less.
    changed = [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]][:1]
    row["before"], row["after"] = changed[0] if changed else (before[mutant.line - 1], "")
    if len(before) != len(after):
        row["before"], row["after"] = before[mutant.line - 1], ""
    names = tests_for(mutant, source, tests, options.limit)
    if not names:
        return {**row, "outcome": "survived"}
    seconds = sum(tests[name]["seconds"] for name in names)
    outcome, test = attack(mutant, code, names, seconds, options.out)
    return {**row, "outcome": outcome, "test": test, "tests": len(names)}


def _line(row):
    text = f"{row['outcome']}: {row['module']}:{row['line']}"
    if row["outcome"] == "survived":
        text += f" ({row['tests']} tests)\n    - {row['before'].strip()}\n    + "
        text += row["after"].strip()
    return text


def _report(rows, spots, wanted):
    rows = [row for row in rows if row["outcome"] != "no program"]
    print("\n| package | mutants | killed | share |\n|---|---|---|---|")
    by_package = Counter(row["module"].split("/")[1] for row in rows)
    alive = Counter(row["module"].split("/")[1] for row in rows if row["outcome"] == "survived")
    for package, number in [*sorted(by_package.items()), ("all", len(rows))]:
        survived = alive.total() if package == "all" else alive[package]
        killed = number - survived
        print(f"| {package} | {number} | {killed} | {100 * killed / max(number, 1):.1f}% |")
    print(f"\n{spots} spots; {wanted} mutants drawn. Survivors:\n")
    for row in rows:
        if row["outcome"] == "survived":
            print(_line(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
