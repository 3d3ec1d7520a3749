import importlib.util
import os

import mutants
import pytest

SOURCE = """\
import math

LIMIT = 3


@decorator
def f(x, y=2):
    if x > LIMIT:
        return (
            x
            + y
        )
    return x


class C:
    z = 1
"""


def _words(mutants_at_a_spot):
    return sorted(m.operator.rsplit("_", 1)[-1] for m in mutants_at_a_spot)


def test_operators_are_exchanged_for_others_that_give_numbers():
    pytest.importorskip("cosmic_ray")
    spots = mutants.mutants_of("a.py", "x = a + 1\ny = a == b\nz = a | b\n")
    assert list(spots) == [(1, 6), (1, 8), (2, 6), (3, 6)]
    assert _words(spots[1, 6]) == ["Div", "FloorDiv", "Mod", "Mul", "Pow", "Sub"]
    assert _words(spots[2, 6]) == ["Gt", "GtE", "IsNot", "Lt", "LtE", "NotEq"]
    assert _words(spots[3, 6]) == ["BitAnd", "BitXor", "LShift", "RShift"]
    assert len(spots[1, 8]) == 2


def test_a_mutant_is_the_source_with_one_change():
    pytest.importorskip("cosmic_ray")
    spots = mutants.mutants_of("a.py", SOURCE)
    changed = [mutants.mutated(m, SOURCE) for m in spots[11, 12]]
    assert SOURCE.replace("+ y", "* y") in changed
    assert all(code.count("\n") == SOURCE.count("\n") and code != SOURCE for code in changed)


def test_an_exception_with_a_dotted_name_is_left_as_it_is():
    pytest.importorskip("cosmic_ray")
    source = "try:\n    x = y\nexcept (ValueError, zipfile.BadZipFile):\n    pass\n"
    drawn = [m for spot in mutants.mutants_of("a.py", source).values() for m in spot]
    exchanged = [mutants.mutated(m, source) for m in drawn if "Exception" in m.operator]
    assert len(exchanged) == 2 and None in exchanged


@pytest.mark.parametrize(
    ("line", "own", "outer"),
    [
        (3, (3, 3), None),
        (6, (6, 7), (7, 13)),  # Python runs a decorator and a default when it defines a function
        (7, (6, 7), (7, 13)),
        (8, (8, 8), (7, 13)),
        (11, (9, 12), (7, 13)),  # an expression of several lines is run as one statement
        (17, (17, 17), (16, 17)),
    ],
)
def test_the_statement_around_a_line(line, own, outer):
    first, last = own
    statement, around = mutants.statement_lines(SOURCE, line)
    assert statement == range(first, last + 1)
    if outer is None:
        assert 1 in around and 1000 in around
    else:
        assert around == range(outer[0], outer[1] + 1)


def test_a_sample_takes_spots_of_each_module_in_proportion():
    spots_of = {
        name: {
            (line, 0): [mutants.Mutant(name, line, 0, "o", k) for k in range(3)] for line in lines
        }
        for name, lines in (("a.py", range(60)), ("b.py", range(30)), ("c.py", range(10)))
    }
    drawn = mutants.sample(spots_of, 20, seed=0)
    assert [sum(m.module == name for m in drawn) for name in spots_of] == [12, 6, 2]
    assert len({(m.module, m.line) for m in drawn}) == 20
    assert drawn == mutants.sample(spots_of, 20, seed=0) != mutants.sample(spots_of, 20, seed=1)
    assert len(mutants.sample(spots_of, 1000, seed=0)) == 100


def test_tests_that_run_the_statement_those_of_the_own_file_first():
    mutant = mutants.Mutant("letkd_keras/layers/c.py", 11, 12, "o", 0)
    tests = {
        name: {"seconds": seconds, "lines": {mutant.module: lines}}
        for name, seconds, lines in (
            ("tests/layers/test_other.py::quick", 1.0, [10]),
            ("tests/layers/test_c.py::slow", 3.0, [8, 10]),
            ("tests/layers/test_c.py::quick", 2.0, [10]),
            ("tests/layers/test_c.py::elsewhere", 0.1, [13]),
        )
    }
    names = mutants.tests_for(mutant, SOURCE, tests, seconds=60)
    assert [name.split("_")[-1] for name in names] == [
        "c.py::quick",
        "c.py::slow",
        "other.py::quick",
    ]
    assert len(mutants.tests_for(mutant, SOURCE, tests, seconds=1)) == 1
    at_a_default = mutants.Mutant("letkd_keras/layers/c.py", 7, 11, "o", 0)
    assert len(mutants.tests_for(at_a_default, SOURCE, tests, seconds=60)) == 4


def test_an_imported_module_has_the_changed_source():
    finder = mutants._MutatedModule("letkd_keras/data_format.py", "changed = True\n")
    assert finder.find_spec("letkd_keras.files") is None
    spec = finder.find_spec("letkd_keras.data_format")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.changed and module.__file__ == str(mutants.ROOT / "letkd_keras/data_format.py")
    mutants.linecache.cache.pop(finder.path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked")
def test_a_process_that_does_not_end_is_killed(tmp_path):
    def endless():
        while True:
            pass

    assert mutants.forked(lambda: 3, tmp_path / "log.txt") == 3
    assert mutants.forked(endless, tmp_path / "log.txt", wall_seconds=0.2) == -9
