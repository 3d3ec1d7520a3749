import numpy as np
import pytest
from in_a_process import in_a_process
from small_problem import small_images

from letkd_keras.commands.command_line import run_main
from letkd_keras.data.image_data import ImageData
from letkd_keras.data.normalization import normalize
from letkd_keras.data.npz import save_npz
from letkd_keras.prototypes import Prototypes, fit_prototypes
from letkd_keras.prototypes.__main__ import main

SIZES = ["--templates", "12", "--subclasses", "3", "--components", "3", "--iterations", "5"]


def small_data():
    """8-bit images of `small_images` as an `ImageData`."""
    x, y = small_images()
    x = np.clip(64 * x + 128, 0, 255).astype("uint8")
    names = ("red", "green", "blue", "gray", "brown")
    return ImageData("colors", x, y, x[:10], y[:10], (0.5,) * 3, (0.25, 0.3, 0.2), names, "60/10")


def status_of(*arguments):
    """Exit status of the command; its messages are those of a process."""
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main([*map(str, arguments)]))
    return stop.value.code


@pytest.fixture
def files(tmp_path, teacher):
    """Arguments for a saved teacher and images in a file, and the teacher."""
    model = teacher()
    model.save(tmp_path / "teacher.keras")
    save_npz(small_data(), tmp_path / "images.npz")
    paths = ["--teacher", str(tmp_path / "teacher.keras"), "--data", str(tmp_path / "images.npz")]
    return [*paths, *SIZES], model


def test_it_writes_what_the_function_returns_and_removes_its_work_folder(tmp_path, files, capsys):
    arguments, model = files
    out = tmp_path / "prototypes.npz"
    assert status_of(*arguments, "--out", out, "--seed", 4) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "prototypes.npz: 12 centers of penultimate, grid 4x4; 15 sub-classes of " in line
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "images.npz",
        "prototypes.npz",
        "teacher.keras",
    ]
    data = small_data()
    images = normalize(data.x_train, data.mean, data.std)
    sizes = {"templates": 12, "subclasses": 3, "components": 3, "iterations": 5}
    expected = fit_prototypes(model, (images, data.y_train), **sizes, seed=4)
    fitted = Prototypes.load(out)
    np.testing.assert_array_equal(fitted.penultimate.centers, expected.penultimate.centers)
    np.testing.assert_array_equal(
        fitted.intermediate.subclass_scores, expected.intermediate.subclass_scores
    )
    fitted.check_teacher(model)
    assert fitted.manifest["data"] == {
        "name": "colors (60/10)",
        "images": 60,
        "class_names": list(data.class_names),
    }


def test_options_reach_the_fit(tmp_path, files):
    out = tmp_path / "prototypes.npz"
    options = ["--pool-size", 2, "--levels", "penultimate", "--memory", "0.5K", "--batch-size", 7]
    layer = ["--teacher-penultimate-layer", "intermediate"]
    assert status_of(*files[0], "--out", out, *options, *layer, "--templates", 5) == 0
    fitted = Prototypes.load(out)
    assert fitted.intermediate is None
    assert fitted.penultimate.pool_size == 2
    assert fitted.penultimate.layer == "intermediate"
    assert fitted.manifest["memory"] == 512
    assert fitted.manifest["health"]["penultimate"]["points"] == 512 // (4 * 6 + 20)
    assert fitted.manifest["health"]["penultimate"]["all_points"] == 240


@pytest.mark.parametrize("workdir", ["", ".", "images.npz"])
def test_files_of_the_user_survive_whatever_the_work_folder(tmp_path, files, workdir, capsys):
    """`--workdir wd --out wd/p.npz` once deleted wd with everything in it."""
    (tmp_path / "thesis.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    out = tmp_path / "prototypes.npz"
    assert status_of(*files[0], "--out", out, "--workdir", tmp_path / workdir) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_work_folder_with_other_files_is_refused(tmp_path, files, capsys):
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("mine")
    assert status_of(*files[0], "--out", tmp_path / "p.npz", "--workdir", work) == 2
    error = capsys.readouterr().err
    assert "must be a new or empty folder" in error and "thesis.txt" in error
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]


def test_inspect_prints_manifest_and_health(tmp_path, files, capsys):
    out = tmp_path / "prototypes.npz"
    main([*files[0], "--out", str(out)])
    capsys.readouterr()
    assert status_of("--inspect", out) == 0
    said = capsys.readouterr().out
    for expected in (
        "manifest",
        "fingerprint",
        "used_templates",
        "sizes",
        "purity",
        "subclass_purity",
        "mean_target_entropy",
        "lda_probe_accuracy",
        "lda_components",
        "inertia_per_point",
    ):
        assert expected in said


def test_pictures_of_the_data(tmp_path, files, capsys):
    out, folder = tmp_path / "prototypes.npz", tmp_path / "pictures"
    main([*files[0], "--out", str(out)])
    assert status_of(*files[0], "--inspect", out, "--pictures", folder) == 0
    assert {path.name for path in folder.iterdir()} == {
        "templates.png",
        "confusion.png",
        "subclass_maps.png",
    }


def test_pictures_of_maps_need_the_teacher_and_the_data(tmp_path, files, capsys):
    out = tmp_path / "prototypes.npz"
    main([*files[0], "--out", str(out)])
    teacher = files[0][files[0].index("--teacher") + 1]
    assert status_of("--inspect", out, "--pictures", tmp_path / "p", "--teacher", teacher) == 2
    assert "--inspect takes --teacher and --data together" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
    assert status_of(*files[0], "--inspect", out) == 2
    assert "takes --teacher and --data only with --pictures DIR" in capsys.readouterr().err


def test_names_with_brackets_are_printed_as_they_are(tmp_path, files, capsys):
    out = tmp_path / "prototypes.npz"
    main([*files[0], "--out", str(out)])
    prototypes = Prototypes.load(out)
    prototypes.manifest["data"]["name"] = "photos [old] [/b]"
    prototypes.save(out)
    capsys.readouterr()
    assert status_of("--inspect", out) == 0
    assert "photos [old] [/b]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--teacher", "nowhere.keras"], "must be a .keras file. Received: 'nowhere.keras'"),
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--data", "images"], "images"),
        (["--templates", "0"], "--templates must be an integer of at least 1. Received: '0'"),
        (["--templates", "961"], "templates=961 for 960 feature vectors"),
        (["--memory", "1e400"], "--memory must be a number of bytes"),
        (["--teacher-penultimate-layer", "penultimte"], "penultimte"),
        (["--engine", "ray"], "--engine ray needs --workers N"),
        (["--workers", "2"], "--workers needs --engine ray"),
        (["--levels", "last"], "--levels must be one of penultimate, intermediate"),
        (["--pictures", "x"], "--pictures needs --inspect"),
        (["--inspect", "nowhere.npz", "--pictures", "x"], "No prototypes at nowhere.npz"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, files, changes, message, capsys):
    assert status_of(*files[0], "--out", tmp_path / "prototypes.npz", *changes) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "prototypes.npz").exists()


@pytest.mark.parametrize("missing", ["--teacher", "--data", "--out"])
def test_what_is_needed_is_named(tmp_path, files, missing, capsys):
    arguments = [*files[0], "--out", str(tmp_path / "prototypes.npz")]
    at = arguments.index(missing)
    assert status_of(*arguments[:at], *arguments[at + 2 :]) == 2
    assert capsys.readouterr().err.startswith(f"error: {missing} is needed to fit prototypes")


def test_damaged_files_are_named(tmp_path, files, capsys):
    out = ["--out", tmp_path / "prototypes.npz"]
    (tmp_path / "broken.keras").write_bytes(b"broken")
    assert status_of(*files[0], *out, "--teacher", tmp_path / "broken.keras") == 2
    assert "must be a complete .keras file" in capsys.readouterr().err
    (tmp_path / "broken.npz").write_bytes(b"broken")
    assert status_of(*files[0], *out, "--data", tmp_path / "broken.npz") == 2
    assert "broken.npz" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_status_130(tmp_path, files, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("letkd_keras.prototypes.fit.kmeans", interrupted)
    out = tmp_path / "prototypes.npz"
    assert status_of(*files[0], "--out", out) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted")
    monkeypatch.undo()
    assert status_of(*files[0], "--out", out) == 0
    assert out.exists()


def test_help_is_answered_without_keras(monkeypatch):
    done = in_a_process("help_without_keras.py", "letkd_keras.prototypes")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--teacher-penultimate-layer NAME" in done.stdout
