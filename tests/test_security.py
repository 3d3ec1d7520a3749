"""What SECURITY.md says of the code; what it says of files is in tests/campaign."""

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
SOURCES = [
    file
    for folder in ("letkd_keras", "recipes", "export")
    for file in sorted((_ROOT / folder).rglob("*.py"))
]


def _calls():
    """Every call in the package: `(file, dotted name, names of the keyword arguments)`."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                keywords = {key.arg: ast.unparse(key.value) for key in node.keywords}
                yield file, ast.unparse(node.func), keywords


def _imports():
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module == "urllib.request":
                yield from ((file, f"{node.module}.{name.name}") for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield file, node.module or ""


def test_the_sources_are_seen():
    assert len(SOURCES) > 100 and any(name == "np.load" for _, name, _ in _calls())


def test_pickles_are_refused():
    for file, name, keywords in _calls():
        if name == "np.load":
            assert keywords.get("allow_pickle", "False") == "False", file
        if name == "torch.load":
            assert keywords["weights_only"] == "True", file
        # Ray carries objects between its own processes as pickles; no file is read there.
        if file.name != "ray_engine.py":
            assert name not in ("pickle.load", "pickle.loads", "joblib.load"), file


def test_safe_mode_of_keras_is_never_turned_off():
    for file, name, keywords in _calls():
        assert keywords.get("safe_mode", "True") == "True", file
        assert "enable_unsafe_deserialization" not in name, file


@pytest.mark.parametrize("name", ["eval", "exec", "compile", "os.system", "os.umask", "os.popen"])
def test_no_text_is_executed_and_the_umask_is_not_changed(name):
    assert not [file for file, called, _ in _calls() if called == name]


def test_only_data_sets_and_published_weights_use_the_network():
    modules = {"urllib", "urllib3", "requests", "http", "socketserver", "ftplib"}
    # These two do not open connections, nor does this function.
    allowed = {"urllib.error", "urllib.parse", "urllib.request.getproxies"}
    imported = {name for _, name in _imports() if name.split(".")[0] in modules}
    assert imported <= allowed
    assert not [file for file, name, _ in _calls() if name.endswith(("get_file", "urlopen"))]
    # Published weights of keras.applications and keras-hub.
    with_weights = {
        file.name
        for file, _, keywords in _calls()
        if keywords.get("weights", "None") not in ("None", "weights")
    }
    # The recipes' options pass the kind of weights on.
    assert with_weights <= {"networks.py", "experiment_from_options.py"}
    using = {file.name for file, name in _imports() if name == "tensorflow_datasets"}
    assert using <= {"cifar.py", "tfds.py", "imagenet.py", "image_sources.py"}


def test_commands_run_no_shell():
    calls = [(file, keywords) for file, name, keywords in _calls() if name.startswith("subprocess")]
    assert calls
    for file, keywords in calls:
        assert "shell" not in keywords, file


def test_new_files_have_the_permissions_of_the_umask(tmp_path):
    from letkd_keras.files import write_text

    write_text(tmp_path / "written", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "plain").stat().st_mode
