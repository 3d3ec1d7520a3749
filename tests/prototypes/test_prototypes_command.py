import numpy as np
import pytest
from small_problem import small_images

from letkd_keras.prototypes import Prototypes, fit_prototypes
from letkd_keras.prototypes.__main__ import main

SIZES = ["--templates", "12", "--subclasses", "3", "--components", "3", "--iterations", "5"]


@pytest.fixture
def files(tmp_path, teacher):
    """Arguments for a saved teacher and images in a file, and the teacher."""
    model = teacher()
    model.save(tmp_path / "teacher.keras")
    x, y = small_images()
    np.savez(tmp_path / "images.npz", x_train=x, y_train=y)
    paths = ["--teacher", str(tmp_path / "teacher.keras"), "--data", str(tmp_path / "images.npz")]
    return [*paths, *SIZES], model


def test_it_writes_what_the_function_returns_and_clears_up(tmp_path, files, capsys):
    arguments, model = files
    out = tmp_path / "prototypes.npz"
    assert main([*arguments, "--out", str(out), "--seed", "4"]) == 0
    assert "written: " in capsys.readouterr().out
    assert not (tmp_path / "prototypes.npz.work").exists()
    expected = fit_prototypes(
        model, small_images(), templates=12, subclasses=3, components=3, iterations=5, seed=4
    )
    found = Prototypes.load(out)
    np.testing.assert_array_equal(found.penultimate.centers, expected.penultimate.centers)
    np.testing.assert_array_equal(
        found.intermediate.subclass_scores, expected.intermediate.subclass_scores
    )
    found.check_teacher(model)


def test_options_reach_the_fit(tmp_path, files):
    out = tmp_path / "prototypes.npz"
    options = ["--pool", "2", "--intermediate", "none", "--memory", "0.5K", "--batch-size", "7"]
    assert main([*files[0], "--out", str(out), *options, "--templates", "5"]) == 0
    found = Prototypes.load(out)
    assert found.intermediate is None
    assert found.penultimate.pool_size == 2
    assert found.manifest["memory"] == 512
    assert found.manifest["health"]["penultimate"]["points"] == 512 // 52
    assert found.manifest["health"]["penultimate"]["all_points"] == 240


def test_shards_and_merges_until_the_file_is_there(tmp_path, files, capsys):
    out, work = tmp_path / "prototypes.npz", tmp_path / "work"
    arguments = [*files[0], "--out", str(out), "--workdir", str(work), "--batch-size", "7"]
    assert main([*arguments, "--merge", "2"]) == 2
    assert "features-0-of-2, features-1-of-2" in capsys.readouterr().err
    for _ in range(2):
        assert not out.exists()
        assert main([*arguments, "--shard", "0/2"]) == 0
        assert main([*arguments, "--shard", "1/2"]) == 0
        assert main([*arguments, "--merge", "2"]) == 0
    said = capsys.readouterr().out
    assert "done: features" in said and "done: projected" in said
    assert "merged; run every shard again" in said and "written: " in said
    assert Prototypes.load(out).intermediate.templates == 15
    assert not work.exists()


def test_inspect_prints_manifest_and_health(tmp_path, files, capsys):
    out = tmp_path / "prototypes.npz"
    main([*files[0], "--out", str(out)])
    capsys.readouterr()
    assert main(["--inspect", str(out)]) == 0
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--out", ""], "is needed"),
        (["--teacher", "nowhere.keras"], "No teacher at nowhere.keras"),
        (["--data", "nowhere.npz"], "No data set at nowhere.npz"),
        (["--data", "images"], "`data` must be 'digits', 'tfds:NAME' or an .npz"),
        (["--templates", "0"], "templates=0"),
        (["--penultimate", "penultimte"], "penultimte"),
        (["--train-examples", "7"], "`train_examples` goes with"),
        (["--shard", "2/2"], "index=2, count=2"),
        (["--inspect", "nowhere.npz"], "No prototypes at nowhere.npz"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, files, changes, message, capsys):
    if changes[0] == "--out":
        arguments = files[0]
    else:
        arguments = [*files[0], "--out", str(tmp_path / "prototypes.npz"), *changes]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert not (tmp_path / "prototypes.npz").exists()


def test_files_that_are_no_teacher_or_no_images_are_told(tmp_path, files, capsys):
    out = ["--out", str(tmp_path / "prototypes.npz")]
    (tmp_path / "broken.keras").write_bytes(b"broken")
    assert main([*files[0], *out, "--teacher", str(tmp_path / "broken.keras")]) == 2
    assert "no Keras model" in capsys.readouterr().err
    (tmp_path / "broken.npz").write_bytes(b"broken")
    assert main([*files[0], *out, "--data", str(tmp_path / "broken.npz")]) == 2
    assert "not a whole .npz" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    assert main([*files[0], *out, "--data", str(tmp_path / "other.npz")]) == 2
    assert "x_train and y_train" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--shard", "1"], ["--memory", "much"], ["--merge", "x"]])
def test_arguments_of_another_form_are_explained(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error: argument" in capsys.readouterr().err


def test_8_bit_images_are_normalised_as_in_training(tmp_path):
    from letkd_keras.data import evaluation_batches
    from letkd_keras.prototypes.sources import open_data

    r = np.random.default_rng(0)
    x, y = r.integers(256, size=(6, 4, 4, 3), dtype="uint8"), np.arange(6)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    np.savez(tmp_path / "images.npz", images=x, labels=y, mean=mean, std=std)
    images, labels, preprocess, _ = open_data(str(tmp_path / "images.npz"))
    expected, _ = next(iter(evaluation_batches(x, y, 6, mean=mean, std=std)))
    np.testing.assert_array_equal(preprocess(images), expected)
    np.testing.assert_allclose(preprocess(images), (x / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(labels, y)
