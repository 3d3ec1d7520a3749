"""`recipes` and `export` stand at the root and import from the package, however it is installed."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
)


@pytest.fixture
def source(tmp_path):
    """A copy of the repository: builds write into the tree they build."""
    return Path(shutil.copytree(ROOT, tmp_path / "source", ignore=_LEFT_OUT))


@pytest.fixture
def python(tmp_path):
    """The interpreter of a fresh environment that sees our dependencies, but not our install."""
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    site = Path(_run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    # A path in a .pth file is searched, but the .pth files in it (our editable install) are not.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def _run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _where_it_imports_from(python, folder):
    program = (
        "import letkd_keras, letkd_keras.recipes.digits as r, letkd_keras.export as e;"
        "print(*(m.__file__ for m in (letkd_keras, r, e)), sep='\\n')"
    )
    return list(map(Path, _run(python, "-c", program, cwd=folder).splitlines()))


def _install(python, *what):
    _run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", *what)


def test_a_wheel_has_recipes_and_export_inside_the_package(source, python, tmp_path):
    _run(sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "-o", tmp_path, source)
    shutil.rmtree(source)
    _install(python, *tmp_path.glob("*.whl"))
    package, digits, export = _where_it_imports_from(python, tmp_path)
    assert python.parent.parent in package.parents
    assert digits == package.parent / "recipes" / "digits.py"
    assert export == package.parent / "export" / "__init__.py"


def test_an_editable_install_imports_them_from_the_root(source, python, tmp_path):
    _install(python, "-e", source)
    package, digits, export = _where_it_imports_from(python, tmp_path)
    assert package == source / "letkd_keras" / "__init__.py"
    assert digits == source / "recipes" / "digits.py"
    assert export == source / "export" / "__init__.py"
