"""What is built and installed: every module in the wheel, the whole project in the sdist.

`recipes` and `export` stand at the root and import from the package, however it is installed.
"""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "runs", "build", "dist", "*.egg-info", "__pycache__", ".*_cache"
)
# The folders of the import package, by the name that each has in it.
_FOLDERS = {
    "letkd_keras": "letkd_keras",
    "recipes": "letkd_keras/recipes",
    "export": "letkd_keras/export",
}


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


def _modules(root):
    """The Python files of the import package below `root`, as paths in a wheel."""
    return {
        (Path(inside) / file.relative_to(root / folder)).as_posix()
        for folder, inside in _FOLDERS.items()
        for file in (root / folder).rglob("*.py")
    }


def test_pyproject_lists_every_package_of_the_tree():
    packages = {
        Path(module).parent.as_posix().replace("/", ".")
        for module in _modules(ROOT)
        if Path(module).name == "__init__.py"
    }
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages)


def test_no_folder_of_modules_lacks_its_init_file():
    folders = {Path(module).parent for module in _modules(ROOT)}
    assert {(folder / "__init__.py").as_posix() for folder in folders} <= _modules(ROOT)


def test_every_dependency_has_a_floor_and_constraints_txt_a_version_that_meets_it():
    extras = PYPROJECT["project"]["optional-dependencies"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {canonicalize_name(pin.name): pin.specifier for pin in pins}
    for line in [*PYPROJECT["project"]["dependencies"], *chain(*extras.values())]:
        requirement = Requirement(line)
        if requirement.name != PYPROJECT["project"]["name"]:
            (floor,) = requirement.specifier
            (pin,) = pins[canonicalize_name(requirement.name)]
            assert (floor.operator, pin.operator) == (">=", "=="), line
            assert floor.contains(pin.version), line


def test_the_sdist_has_the_project_and_the_wheel_made_of_it_the_package(source, python, tmp_path):
    # Without --wheel or --sdist, `build` makes the wheel from the sdist, not from the tree.
    _run(sys.executable, "-m", "build", "--no-isolation", "-o", tmp_path, source)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("tests", "docs", "benchmarks", "examples", *_FOLDERS):
        files = {file.relative_to(source).as_posix() for file in (source / folder).rglob("*.*")}
        files = {file for file in files if "__pycache__" not in file and ".ipynb_ch" not in file}
        assert files, folder
        assert files <= packed
    assert {
        *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"),
        *("constraints.txt", "pyproject.toml", "tests/conftest.py"),
    } <= packed
    assert any(name.startswith("tests/golden/step_") for name in packed)
    assert not any(name.endswith(".pyc") for name in packed)

    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith(".py")} == _modules(source)
    shutil.rmtree(source)
    _install(python, wheel)
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
