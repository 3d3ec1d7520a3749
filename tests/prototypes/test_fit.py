import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
from reference_lda import ReferenceLDA as Reference
from small_problem import SIZES, small_images

from letkd_keras.functional import fingerprint
from letkd_keras.prototypes import Prototypes, fit_prototypes
from letkd_keras.prototypes import fit as fit_module
from letkd_keras.prototypes.kmeans import kmeans
from letkd_keras.prototypes.lda import lda_components
from letkd_keras.prototypes.subclasses import fit_subclasses


def _equal(first, second):
    for level in ("penultimate", "intermediate"):
        for name, value in vars(getattr(first, level)).items():
            np.testing.assert_array_equal(value, getattr(getattr(second, level), name))


def _features(model, layer, x):
    output = keras.Model(model.inputs, model.get_layer(layer).output).predict(x, verbose=0)
    return output.reshape(-1, output.shape[-1])


def test_each_part_is_what_the_method_says(teacher):
    model, (x, y) = teacher(), small_images()
    prototypes = fit_prototypes(model, (x, y), **SIZES, seed=4, data_name="colours", batch_size=60)
    prototypes.check_teacher(model)

    level_1 = prototypes.penultimate
    assert (level_1.layer, level_1.grid, level_1.pool_size) == ("penultimate", (4, 4), 1)
    expected = kmeans(_features(model, "penultimate", x), 12, iterations=5, seed=4)
    np.testing.assert_allclose(level_1.centers, expected, rtol=1e-5, atol=1e-6)

    level_2 = prototypes.intermediate
    assert (level_2.num_classes, level_2.subclasses, level_2.grid) == (5, 3, (4, 4))
    features, labels = _features(model, "intermediate", x), np.repeat(y, 16)
    reference = Reference(solver="svd").fit(features.astype("float64"), labels)
    np.testing.assert_allclose(level_2.lda_mean, reference.xbar_, rtol=1e-5)
    signs = np.sign(np.sum(level_2.lda_scalings * reference.scalings_[:, :3], axis=0))
    np.testing.assert_allclose(
        level_2.lda_scalings * signs, reference.scalings_[:, :3], rtol=1e-4, atol=1e-5
    )

    z = level_2.project(features)
    by_class, sizes = z[np.argsort(labels, kind="stable")], np.bincount(labels)
    expected = fit_subclasses(by_class, sizes, 3, iterations=5, seed=4)
    np.testing.assert_allclose(level_2.centers, expected, rtol=1e-4, atol=1e-5)

    # The loop of the method, point by point.
    counts = np.zeros((15, 15))
    for point, label in zip(z, labels, strict=True):
        distances = np.sum((level_2.centers - point) ** 2, axis=1)
        own = 3 * label + distances[3 * label : 3 * label + 3].argmin()
        counts[own, distances.argmin()] += 1
    expected = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(level_2.subclass_scores, expected, rtol=1e-5)
    np.testing.assert_allclose(level_2.subclass_scores.sum(axis=1), 1, rtol=1e-6)

    manifest = prototypes.manifest
    assert manifest["teacher"] == {"name": "small", "fingerprint": fingerprint(model)}
    assert manifest["data"] == {"name": "colours", "images": 60}
    assert manifest["seed"] == 4
    assert manifest["versions"]["keras"] == keras.__version__


def test_the_seed_decides_and_the_teacher_is_left_alone(tmp_path, teacher):
    model, data = teacher(), small_images()
    before = fingerprint(model)
    first = fit_prototypes(model, data, **SIZES, seed=4)
    _equal(first, fit_prototypes(model, data, **SIZES, seed=4))
    other = fit_prototypes(model, data, **SIZES, seed=5)
    for level in ("penultimate", "intermediate"):
        centers = [getattr(prototypes, level).centers for prototypes in (first, other)]
        assert not np.allclose(*centers), level
    assert fingerprint(model) == before
    first.save(tmp_path / "prototypes.npz")
    _equal(first, Prototypes.load(tmp_path / "prototypes.npz"))


def test_a_data_set_of_batches_is_the_same_as_arrays(teacher):
    import tensorflow as tf

    model, (x, y) = teacher(), small_images()
    arrays = fit_prototypes(model, (x, y), **SIZES, batch_size=16)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    _equal(arrays, fit_prototypes(model, batches, **SIZES))
    with_weights = [(x[i : i + 16], y[i : i + 16, None], None) for i in range(0, 60, 16)]
    _equal(arrays, fit_prototypes(model, with_weights, **SIZES))


def test_pooling_halves_the_grid(teacher):
    model, (x, y) = teacher(), small_images()
    prototypes = fit_prototypes(model, (x, y), **SIZES, pool_size=2)
    assert prototypes.penultimate.grid == prototypes.intermediate.grid == (2, 2)
    model_2 = keras.Model(model.inputs, model.get_layer("penultimate").output)
    features = model_2.predict(x, verbose=0).reshape(60, 2, 2, 2, 2, 8).mean(axis=(2, 4))
    expected = kmeans(features.reshape(-1, 8), 12, iterations=5)
    np.testing.assert_allclose(prototypes.penultimate.centers, expected, rtol=1e-4, atol=1e-5)


def test_letkd_1_has_no_intermediate_part(teacher):
    prototypes = fit_prototypes(teacher(), small_images(), **SIZES, levels=("penultimate",))
    assert prototypes.intermediate is None
    prototypes.check_teacher(teacher())


def test_little_memory_means_a_sample_for_the_clusters_but_all_points_for_the_rest(teacher):
    model, data = teacher(), small_images()
    full = fit_prototypes(model, data, **SIZES)
    small = fit_prototypes(model, data, **SIZES, memory=300 * (4 * 8 + 20))
    assert not np.array_equal(full.penultimate.centers, small.penultimate.centers)
    np.testing.assert_array_equal(full.intermediate.lda_scalings, small.intermediate.lda_scalings)
    # Rows are histograms over all 960 points: row sums of the counts recover whole numbers.
    assert small.intermediate.subclass_scores.shape == (15, 15)
    np.testing.assert_allclose(small.intermediate.subclass_scores.sum(axis=1), 1, rtol=1e-6)


def test_number_of_components():
    assert lda_components(60, 100, 64) == 60
    assert lda_components(60, 100, 32) == 32
    assert lda_components(60, 10, 64) == 8
    assert lda_components(9, 10, 64) == 9
    assert lda_components(60, 40, 64) == 39
    assert lda_components(60, 2, 64) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": 0}, "`templates` must be .*templates=0"),
        ({"templates": 2.5}, "`templates` must be an integer"),
        ({"subclasses": 0}, "subclasses=0"),
        ({"iterations": 0}, "iterations=0"),
        ({"memory": 0}, "`memory` must be .*memory=0"),
        ({"pool_size": {"penultimate": 2}}, "one for each of the levels penultimate, intermediate"),
        ({"levels": ("intermediate",)}, "`levels` must be .*levels=.'intermediate',"),
        ({"templates": True}, "templates=True"),
        ({"pool_size": True}, "`pool_size` must be .*pool_size=True"),
        ({"seed": -1}, "`seed` must be .*seed=-1"),
        ({"seed": True}, "`seed` must be .*seed=True"),
        ({"templates": 961}, "templates=961 for 960 feature vectors"),
        ({"subclasses": 193}, "subclasses=193 feature vectors.*class 0"),
        ({"penultimate_layer": "penultimte"}, "penultimate_layer=.penultimte.*: penultimate"),
        ({"intermediate_layer": "dense"}, "must name a layer"),
        ({"class_names": ["a", "b"]}, r"`class_names` must be .* 5 names.*=\['a', 'b'\]"),
        ({"class_names": "abcde"}, "`class_names` must be a sequence of 5 names.*='abcde'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_image(changes, message, monkeypatch, teacher):
    monkeypatch.setattr(
        "letkd_keras.prototypes.teacher_features.TeacherFeatures.__call__",
        lambda *_: pytest.fail("the teacher ran"),
    )
    with pytest.raises(ValueError, match=message):
        fit_prototypes(teacher(), small_images(), **{**SIZES, **changes})


def test_bad_data_is_refused(teacher):
    model, (x, y) = teacher(), small_images()
    batches = [(x[:30], y[:30]), (x[30:], y[30:])]
    with pytest.raises(ValueError, match="empty after the first"):
        fit_prototypes(model, (batch for batch in batches), **SIZES)
    with pytest.raises(ValueError, match=r"\[0, 5\).*from 1 to 5"):
        fit_prototypes(model, (x, y + 1), **SIZES)
    for labels in (np.eye(6)[y], np.eye(5)[y] + np.eye(5)[y - 1]):  # too wide, several classes
        with pytest.raises(ValueError, match=r"or one-hot of shape \[B, 5\]"):
            fit_prototypes(model, (x, labels), **SIZES)
    with pytest.raises(ValueError, match=r"of an integer type.*\(60,\) and type float32"):
        fit_prototypes(model, (x, y.astype("float32")), **SIZES)
    with pytest.raises(ValueError, match=r"a data set must be batched\..*shape \(\) and type int"):
        fit_prototypes(model, list(zip(x, y, strict=True)), **SIZES)
    with pytest.raises(ValueError, match="60 images and 59 labels"):
        fit_prototypes(model, (x, y[1:]), **SIZES)
    with pytest.raises(ValueError, match="at least one image"):
        fit_prototypes(model, (x[:0], y[:0]), **SIZES)
    with pytest.raises(ValueError, match="templates=961 for 960"):
        fit_prototypes(model, batches, **{**SIZES, "templates": 961})
    with pytest.raises(ValueError, match=r"class 4 \(0\)"):
        fit_prototypes(model, [(x[y < 4], y[y < 4])], **SIZES)


def test_teachers_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"functional or a built"):
        fit_prototypes(keras.Sequential(), small_images(), **SIZES)
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(3, 1, name="penultimate")(inputs)
    with pytest.raises(ValueError, match=r"\[B, classes\]"):
        fit_prototypes(keras.Model(inputs, maps), small_images(), **SIZES)


def test_a_teacher_of_any_size_takes_the_size_of_the_images(tmp_path):
    import tensorflow as tf

    fixed, (x, y) = unnamed_teacher(), small_images()
    inputs = keras.Input((None, None, 3))
    free = keras.models.clone_model(fixed, input_tensors=inputs)
    free.set_weights(fixed.get_weights())
    assert free.input_shape == (None, None, None, 3)
    expected = fit_prototypes(fixed, (x, y), **SIZES)
    fitted = fit_prototypes(free, (x, y), **SIZES)
    _equal(fitted, expected)
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    _equal(fit_prototypes(free, batches, **SIZES), expected)
    fitted.save(tmp_path / "prototypes.npz")
    Prototypes.load(tmp_path / "prototypes.npz").check_teacher(free)


def test_images_of_another_size_than_the_teachers_are_refused(teacher):
    x, y = small_images(size=6)
    with pytest.raises(ValueError, match=r"images of shape \(8, 8, 3\).*shape \(6, 6, 3\)"):
        fit_prototypes(teacher(), (x, y), **SIZES)


# === Layers ===


def unnamed_teacher(softmax=False, intermediate=True):
    """Two blocks on the last grid, or one, of layers without names; probabilities or logits."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, 2, padding="same", name="convolution")(inputs)
    if intermediate:
        x = keras.layers.ReLU(name="first")(x)
        x = keras.layers.Conv2D(8, 3, padding="same")(x)
    x = keras.layers.ReLU(name="last")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    activation = "softmax" if softmax else None
    return keras.Model(inputs, keras.layers.Dense(5, activation=activation)(x), name="own")


def test_layers_are_suggested_where_none_are_named(caplog):
    caplog.set_level("INFO", logger="letkd_keras")
    prototypes = fit_prototypes(unnamed_teacher(), small_images(), **SIZES)
    assert prototypes.penultimate.layer == "last"
    assert prototypes.intermediate.layer == "first"
    assert "layers: penultimate 'last', intermediate 'first'" in caplog.text
    named = fit_prototypes(
        unnamed_teacher(),
        small_images(),
        **SIZES,
        penultimate_layer="first",
        levels=["penultimate"],
    )
    assert named.penultimate.layer == "first" and named.levels == ("penultimate",)


def test_a_softmax_at_the_end_is_left_out():
    logits, probabilities = unnamed_teacher(), unnamed_teacher(softmax=True)
    first = fit_prototypes(logits, small_images(), **SIZES)
    second = fit_prototypes(probabilities, small_images(), **SIZES)
    _equal(first, second)
    first.check_teacher(probabilities)
    second.check_teacher(logits)


def test_a_teacher_without_an_intermediate_layer_gets_the_prototypes_of_letkd_1(caplog):
    teacher = unnamed_teacher(intermediate=False)
    prototypes = fit_prototypes(teacher, small_images(), **SIZES)
    assert prototypes.levels == ("penultimate",)
    assert "No intermediate layer of 'own' can be suggested" in caplog.text
    with pytest.raises(ValueError, match=r"`intermediate_layer` must name .*none can be suggested"):
        fit_prototypes(teacher, small_images(), **SIZES, levels=("penultimate", "intermediate"))


def test_integers_of_numpy_and_paths_can_be_saved(teacher, tmp_path):
    numbers = {**SIZES, "seed": 3, "pool_size": 2, "iterations": 5, "memory": 2**40}
    received = fit_prototypes(
        teacher(),
        small_images(),
        **{name: np.int64(number) for name, number in numbers.items()},
        data_name=Path("colours"),
    )
    assert received.manifest["data"]["name"] == "colours"
    expected = fit_prototypes(teacher(), small_images(), **numbers)
    np.testing.assert_array_equal(received.penultimate.centers, expected.penultimate.centers)
    received.save(tmp_path / "prototypes.npz")


def test_each_level_has_its_own_pool_size(teacher):
    pool_size = {"penultimate": 4, "intermediate": 2}
    prototypes = fit_prototypes(teacher(), small_images(), **SIZES, pool_size=pool_size)
    assert (prototypes.penultimate.grid, prototypes.penultimate.pool_size) == ((1, 1), 4)
    assert (prototypes.intermediate.grid, prototypes.intermediate.pool_size) == ((2, 2), 2)


# === Sizes of samples ===


def test_few_vectors_for_each_center_are_reported(teacher, caplog):
    caplog.set_level("INFO", logger="letkd_keras")
    fit_prototypes(teacher(), small_images(), **SIZES, memory=300 * (4 * 8 + 20))
    expected = "a sample of 300 of the 960 feature vectors, 25 for each of 12 centers"
    (warning,) = [record for record in caplog.records if expected in record.getMessage()]
    assert warning.levelname == "WARNING" and "at least 256" in warning.getMessage()
    caplog.clear()
    fit_prototypes(teacher(), small_images(), **SIZES)
    # 960 vectors have 256 for each of 3 centers. 5 classes of 192 vectors have less for one each.
    assert [text for text in caplog.messages if text.startswith("k-means")] == [
        f"k-means has only {vectors} feature vectors for each of {centers} centers (at least 256 "
        f"are advised): fewer centers may serve as well, down to --{name} {number} "
        f"(`{name}={number}` in Python)."
        for vectors, centers, name, number in ((80, 12, "templates", 3), (64, 15, "subclasses", 1))
    ]
    caplog.clear()
    fit_prototypes(teacher(), small_images(), **{**SIZES, "templates": 3, "subclasses": 1})
    assert [text for text in caplog.messages if text.startswith("k-means")] == [
        "k-means has only 192 feature vectors for each of 5 centers (at least 256 are advised)."
    ]
    caplog.clear()
    few = {**SIZES, "templates": 3, "subclasses": 1}
    options = {"memory": 768 * (4 * 8 + 20), "levels": ("penultimate",)}
    fit_prototypes(teacher(), small_images(), **few, **options)
    assert "WARNING" not in {record.levelname for record in caplog.records}
    caplog.clear()
    fit_prototypes(teacher(), small_images(), **few, levels=("penultimate",))
    assert "k-means" not in caplog.text


# === Work folder ===


def test_a_work_folder_with_other_files_is_refused_before_the_teacher_runs(
    tmp_path, teacher, monkeypatch
):
    (tmp_path / "thesis.txt").write_text("mine")
    monkeypatch.setattr(
        "letkd_keras.prototypes.teacher_features.TeacherFeatures.__call__",
        lambda *_: pytest.fail("the teacher ran"),
    )
    with pytest.raises(ValueError, match="`workdir` must be a new or empty folder"):
        fit_prototypes(teacher(), small_images(), **SIZES, workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# === Progress ===


def test_every_step_has_a_bar_that_gets_to_its_end(teacher, capsys, monkeypatch):
    bars, bars_of = {}, fit_module.bars

    def keep(shown):
        progress = bars_of(shown)
        stop = progress.stop

        def stopped():
            bars.update({task.description: (task.completed, task.total) for task in progress.tasks})
            stop()

        progress.stop = stopped
        return progress

    monkeypatch.setattr(fit_module, "bars", keep)
    fit_prototypes(teacher(), small_images(), **SIZES, verbose=True)
    assert bars == {
        "features: teacher": (60, 60),
        "penultimate: k-means": (5, 5),
        "projected: teacher": (60, 60),
        "sub-classes: k-means": (5, 5),
        "sub-classes: scores": (5, 5),
    }
    shown = capsys.readouterr()
    assert "features: teacher" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("verbose", [False, "auto"])
def test_nothing_is_shown_unless_wanted_or_in_a_terminal(teacher, capsys, verbose):
    fit_prototypes(teacher(), small_images(), **SIZES, verbose=verbose)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_the_defaults_are_those_of_the_paper():
    parameters = inspect.signature(fit_prototypes).parameters
    names = ("templates", "subclasses", "components", "iterations")
    assert [parameters[name].default for name in names] == [4096, 8, 60, 20]
