import keras
import numpy as np
import pytest
from in_a_process import in_a_process
from small_problem import SIZES, small_images

from letkd_keras.prototypes import fit_prototypes
from letkd_keras.prototypes.kmeans import kmeans


@pytest.mark.parametrize("cache", ["none", pytest.param("float32", marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_started_again_it_ends_in_the_same_bytes(tmp_path, cache):
    done = in_a_process("killed_runs.py", tmp_path, cache)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"features", "penultimate", "projected", "subclasses", "scores"} <= set(
        done.stdout.split()
    )


def test_finished_steps_are_not_computed_again(tmp_path, teacher, monkeypatch):
    data = small_images()
    first = fit_prototypes(teacher(), data, **SIZES, workdir=tmp_path)
    monkeypatch.setattr(
        "letkd_keras.prototypes.teacher_features.TeacherFeatures.__call__",
        lambda *_: pytest.fail("the teacher ran"),
    )
    again = fit_prototypes(teacher(), data, **SIZES, workdir=tmp_path)
    np.testing.assert_array_equal(again.penultimate.centers, first.penultimate.centers)


def test_a_teacher_whose_layers_have_other_names_continues(tmp_path):
    def unnamed():
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.ReLU()(keras.layers.Conv2D(6, 3)(inputs))
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(5)(x))

    options = {**SIZES, "levels": ("penultimate",), "workdir": tmp_path}
    teacher, again = unnamed(), unnamed()
    again.set_weights(teacher.get_weights())
    first = fit_prototypes(teacher, small_images(), **options).penultimate
    second = fit_prototypes(again, small_images(), **options).penultimate
    assert first.layer != second.layer and first.position == second.position
    np.testing.assert_array_equal(first.centers, second.centers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed: 0 before, 1 now"),
        ({"templates": 13}, "templates: 12 before, 13 now"),
        ({"feature_cache": "float16"}, 'feature_cache: null before, "float16" now'),
        ({"batch_size": 9}, "batch_size: 256 before, 9 now"),
        (
            {"levels": ("penultimate",)},
            'layers.intermediate: "ReLU-5-.*" before, absent now',
        ),
    ],
)
def test_a_workdir_of_other_settings_is_refused(tmp_path, teacher, changes, message):
    fit_prototypes(teacher(), small_images(), **SIZES, workdir=tmp_path)
    with pytest.raises(ValueError, match=message):
        fit_prototypes(teacher(), small_images(), **{**SIZES, **changes}, workdir=tmp_path)


def test_a_workdir_of_another_teacher_or_other_images_is_refused(tmp_path, teacher):
    fit_prototypes(teacher(), small_images(), **SIZES, workdir=tmp_path)
    with pytest.raises(ValueError, match="fingerprint"):
        fit_prototypes(teacher(seed=1), small_images(), **SIZES, workdir=tmp_path)
    with pytest.raises(ValueError, match=r"images: 60 before, 55 now"):
        fit_prototypes(teacher(), small_images(55), **SIZES, workdir=tmp_path)


def test_a_workdir_of_other_pixels_or_labels_is_refused(tmp_path, teacher):
    x, y = small_images()
    fit_prototypes(teacher(), (x, y), **SIZES, workdir=tmp_path)
    for data, preprocess in (((x, y), lambda batch: batch / 2), ((x, np.roll(y, 1)), None)):
        with pytest.raises(ValueError, match=r"other settings: data\.first_batch: "):
            fit_prototypes(teacher(), data, **SIZES, workdir=tmp_path, preprocess=preprocess)


def test_an_interrupted_kmeans_goes_on_from_its_last_iteration():
    points = np.random.default_rng(0).standard_normal((500, 4)).astype("float32")
    seen = []
    whole = kmeans(points, 9, iterations=8, on_iteration=lambda *state: seen.append(state))
    resumed = kmeans(points, 9, iterations=8, resume=seen[4])
    np.testing.assert_array_equal(resumed, whole)
    np.testing.assert_array_equal(kmeans(points, 9, iterations=8, resume=(8, whole)), whole)


def test_a_cache_is_announced_and_takes_all_points(tmp_path, teacher, caplog):
    with caplog.at_level("INFO", logger="letkd_keras"):
        cached = fit_prototypes(
            teacher(), small_images(), **SIZES, workdir=tmp_path, feature_cache="float32", memory=1
        )
    assert f"Writing a feature cache of {960 * (8 * 4 + 4):,} bytes" in caplog.text
    assert f"Writing a feature cache of {960 * (3 * 4 + 4):,} bytes" in caplog.text
    held = fit_prototypes(teacher(), small_images(), **SIZES)
    np.testing.assert_array_equal(cached.penultimate.centers, held.penultimate.centers)
    np.testing.assert_array_equal(cached.intermediate.centers, held.intermediate.centers)
    np.testing.assert_array_equal(
        cached.intermediate.subclass_scores, held.intermediate.subclass_scores
    )


def test_a_half_precision_cache_costs_half_the_disk_and_little_else(tmp_path, teacher, caplog):
    with caplog.at_level("INFO", logger="letkd_keras"):
        cached = fit_prototypes(
            teacher(), small_images(), **SIZES, workdir=tmp_path, feature_cache="float16"
        )
    assert f"Writing a feature cache of {960 * (8 * 2 + 4):,} bytes" in caplog.text
    held = fit_prototypes(teacher(), small_images(), **SIZES)
    name = "inertia_per_point"
    assert cached.manifest["health"]["penultimate"][name] == pytest.approx(
        held.manifest["health"]["penultimate"][name], rel=1e-2
    )
    np.testing.assert_array_equal(cached.intermediate.lda_mean, held.intermediate.lda_mean)


def test_a_cache_that_the_disk_cannot_hold_is_refused_before_the_teacher_runs(
    tmp_path, teacher, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    monkeypatch.setattr(
        "letkd_keras.prototypes.teacher_features.TeacherFeatures.__call__",
        lambda *_: pytest.fail("the teacher ran"),
    )
    with pytest.raises(OSError, match=r"needs 30,720 bytes .*; 1,000 are free"):
        fit_prototypes(
            teacher(), small_images(), **SIZES, workdir=tmp_path, feature_cache="float32"
        )


def test_a_cache_refused_leaves_no_folder_and_a_smaller_one_can_be_asked_for(
    tmp_path, teacher, monkeypatch
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 20_000})())
    options = {**SIZES, "workdir": tmp_path / "new" / "work"}
    with pytest.raises(OSError, match=r"needs 34,560 bytes .*; 20,000 are free"):
        fit_prototypes(teacher(), small_images(), **options, feature_cache="float32")
    assert not list(tmp_path.iterdir())
    cached = fit_prototypes(teacher(), small_images(), **options, feature_cache="float16")
    assert cached.manifest["feature_cache"] == "float16"


def test_a_cache_needs_a_workdir(teacher):
    with pytest.raises(ValueError, match="needs a `workdir`"):
        fit_prototypes(teacher(), small_images(), **SIZES, feature_cache="float32")
    with pytest.raises(ValueError, match="feature_cache='float64'"):
        fit_prototypes(teacher(), small_images(), **SIZES, workdir="x", feature_cache="float64")
