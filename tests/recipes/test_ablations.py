"""Ablations with cells that cost nothing."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from image_trees import write_tree
from matplotlib.axes import Axes
from PIL import Image

from letkd_keras.data import DataSpec
from letkd_keras.files import checksum, write_text
from letkd_keras.layers import KDLayer
from letkd_keras.recipes import ablations, cifar100
from letkd_keras.recipes.experiments import methods, published
from letkd_keras.recipes.experiments.networks import Network
from letkd_keras.recipes.reports import method_table
from letkd_keras.recipes.studies import grid, layer_features, layer_time, probe, tsne, value_sweep
from letkd_keras.recipes.trainings import training_folder
from letkd_keras.recipes.trainings.training_state import finish

SMALL = "--train-examples 40 --batch-size 20"


@pytest.fixture
def cells(monkeypatch):
    """Cells as they are trained, each the experiment, the method and the seed."""
    trained = []

    def student(experiment, method, seed, teacher, prototypes, folder):
        trained.append((experiment, method, seed))
        accuracy = {"accuracy_last": float(experiment.templates), "accuracy_best": 90.0}
        numbers = {"parameters": 9, "parameters_plain": 7, "seconds": 3.0, "epochs": 240}
        training = training_folder.student_folder(folder, method, seed)
        write_text(training / "student.keras", "a student")
        write_text(training / "metrics.csv", "epoch,val_accuracy\n0,0.9\n")
        model = {"model_sha256": checksum(training / "student.keras")}
        finish(training, {**accuracy, **numbers, **model})

    def prepare(experiment):
        return replace(experiment, pool_sizes={"penultimate": 1, "intermediate": 1})

    def prototypes(experiment, teacher, folder, levels):
        (folder / "prototypes.npz").touch()

    teacher = {"accuracy_last": 99.0, "parameters": 5000}
    monkeypatch.setattr(method_table, "_plot", lambda *args: None)
    for module in (grid, value_sweep):
        monkeypatch.setattr(module, "prepare", prepare)
        monkeypatch.setattr(module, "train_teacher", lambda *args: (None, teacher))
    monkeypatch.setattr(grid, "prototypes_of", prototypes)
    monkeypatch.setattr(grid, "train_student", student)
    # The teacher's file that the grids of a sweep are given.
    monkeypatch.setattr(value_sweep.Network, "of", lambda *args, **options: Network("resnet20"))
    return trained


def _main(text, out):
    return ablations.main([*text.split(), *SMALL.split(), "--out", str(out)])


def test_the_eight_alphas_are_each_level_alone_and_both():
    names = ablations.ABLATIONS["alphas"].methods
    rows = [methods.METHODS[name] for name in names]
    both = ("penultimate", "intermediate")
    # An alpha that the method does not fix is 1.
    assert [(row.levels, row.alphas) for row in rows] == [
        (("intermediate",), {"intermediate": 0}),
        (("intermediate",), {}),
        (("penultimate",), {"penultimate": 0}),
        (("penultimate",), {}),
        (both, {"intermediate": 0, "penultimate": 0}),
        (both, {"intermediate": 0}),
        (both, {"penultimate": 0}),
        (both, {}),
    ]
    numbers = [published.published("cifar100", "resnet56-resnet20", name).top1 for name in names]
    assert numbers == [70.64, 70.80, 71.84, 72.44, 71.70, 72.13, 72.78, 73.27]


def test_the_reference_of_the_probe_is_intermediate_alpha_0_and_penultimate_alpha_1():
    reference, other = (methods.METHODS[name] for name in ablations.ABLATIONS["probe"].methods)
    assert reference.alphas == {"intermediate": 0} and other.alphas == {}
    assert reference.levels == other.levels == ("penultimate", "intermediate")
    assert published.probes_of("cifar100", "resnet56-resnet20").keys() == set(
        ablations.ABLATIONS["probe"].methods
    )


def test_values_are_put_side_by_side(cells, tmp_path):
    out = tmp_path / "values"
    _main("templates --values 16 64 --trials 2", out)
    assert [(e.templates, method, seed) for e, method, seed in cells] == [
        (templates, "letkd1", seed) for templates in (16, 64) for seed in (0, 1)
    ]
    text = (out / "values.md").read_text()
    assert "| 16 | letKD-1 | 2 | 16.00 ± 0.00 |" in text
    assert "| 64 | letKD-1 | 2 | 64.00 ± 0.00 |" in text
    with (out / "values.csv").open(newline="") as file:
        assert [row["templates"] for row in csv.DictReader(file)] == ["16", "64"]
    assert Image.open(out / "values.png").width > 500
    assert (out / "templates-16" / "table.md").exists()
    # More values can be added to the same folder, other settings not.
    _main("templates --values 16 32 --trials 2", out)
    assert [e.templates for e, _, _ in cells[4:]] == [32, 32]
    with (out / "values.csv").open(newline="") as file:
        assert [row["templates"] for row in csv.DictReader(file)] == ["16", "32", "64"]
    # A value of another teacher is left out.
    config = json.loads((out / "templates-64" / "config.json").read_text())
    config["teacher"]["fingerprint"] = "another"
    (out / "templates-64" / "config.json").write_text(json.dumps(config))
    (out / "templates-none").mkdir()
    rows = _main("templates --values 128 --trials 1 --methods letkd2", out)
    tried = [(row["templates"], row["method"], row["trials"]) for row in rows]
    assert tried == [(16, "letkd1", 2), (32, "letkd1", 2), (128, "letkd2", 1)]
    assert "| 32 | letKD-1 | 2 | 32.00 ± 0.00 |" in (out / "values.md").read_text()
    with pytest.raises(ValueError, match="other settings: subclasses: 8 before, 4 now"):
        _main("templates --values 16 --subclasses 4", out)


def test_the_teacher_of_all_values_is_trained_once(cells, tmp_path):
    _main("temperature --values 1 2 --teacher-epochs 3 --fine-tune-epochs 2", tmp_path / "out")
    # To each value it is a trained one, and no option of its training is without effect.
    assert [(e.fine_tune_schedule, e.typed) for e, _, _ in cells] == [(None, ())] * 2


def test_an_image_that_stops_the_teacher_of_all_values_is_named(cells, tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_tree(tmp_path / "data" / split, images=2, suffix=".JPEG")
    (tmp_path / "data" / "train" / "bee" / "1.JPEG").write_bytes(b"no image")

    def train_teacher(experiment, folder):
        list(experiment.data.training_batches(2, epochs=1))

    monkeypatch.setattr(value_sweep, "train_teacher", train_teacher)
    data = ["--data", f"imagenet:{tmp_path / 'data'}", "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=r"bee/1\.JPEG"):
        ablations.main(["temperature", "--values", "1", "2", *data])


def test_layers_whose_growth_allows_other_numbers_of_templates_are_compared(
    cells, tmp_path, monkeypatch
):
    def prepare(experiment):
        layer = experiment.student.penultimate_layer
        templates = {"stage2": 20, "stage3": 10}[layer]
        return replace(experiment, templates=templates, pool_sizes={"penultimate": 1})

    for module in (grid, value_sweep):
        monkeypatch.setattr(module, "prepare", prepare)
    out = tmp_path / "out"
    for layer in ("stage2", "stage3"):
        rows = _main(f"student-penultimate-layer --values {layer} --growth 25%", out)
    tried = [(row["student-penultimate-layer"], row["accuracy_last_mean"]) for row in rows]
    assert tried == [("stage3", 10), ("stage2", 20)]
    with pytest.raises(ValueError, match=r"growth: 0\.25 before, 0\.5 now"):
        _main("student-penultimate-layer --values stage2 --growth 50%", out)


@pytest.mark.parametrize("ablation", ["alphas", "learning-rate --values 0.1 0.2"])
def test_milestones_are_those_of_all_students(ablation, cells, tmp_path):
    _main(f"{ablation} --epochs 4 --milestones 1 3", tmp_path / "out")
    assert {e.student_schedule.milestones for e, _, _ in cells} == {(1, 3)}


@pytest.mark.parametrize(
    ("name", "values", "field", "expected"),
    [
        ("subclasses", "2 4", "subclasses", [2, 4]),
        ("components", "3", "components", [3]),
        ("iterations", "5", "iterations", [5]),
        ("temperature", "0.5 2", "temperature", [0.5, 2]),
        ("penultimate-alpha", "0 0.5", "penultimate_alpha", [0, 0.5]),
        ("intermediate-alpha", "0.2", "intermediate_alpha", [0.2]),
        ("penultimate-weight", "3", "penultimate_weight", [3]),
        ("intermediate-weight", "0", "intermediate_weight", [0]),
        ("template-scale", "1 10", "initial_template_scale", [1, 10]),
        ("learning-rate", "0.01", "student_schedule.learning_rate", [0.01]),
        (
            *("kd-learning-rate-factor", "0.1 10"),
            *("student_schedule.kd_learning_rate_factor", [0.1, 10]),
        ),
        (
            "student-intermediate-layer",
            "block2 block3",
            "student.intermediate_layer",
            ["block2", "block3"],
        ),
    ],
)
def test_every_setting_can_be_compared(name, values, field, expected, cells, tmp_path):
    _main(f"{name} --values {values}", tmp_path / "out")
    found = []
    for experiment, _, _ in cells:
        value = experiment
        for part in field.split("."):
            value = getattr(value, part)
        found.append(value)
    assert found == expected


def test_the_schedule_of_fake_quantization_follows_the_value(cells, tmp_path):
    for name, values in (("learning-rate", (0.01, 1)), ("kd-learning-rate-factor", (0.1, 10))):
        given = " ".join(map(str, values))
        # Another first value continues the same folder.
        for text in (given, " ".join(given.split()[::-1])):
            _main(
                f"{name} --values {text} --quantization-aware-epochs 3",
                tmp_path / name,
            )
    assert len(cells) == 4
    for experiment, _, _ in cells:
        schedule, student = experiment.quantization_aware_schedule, experiment.student_schedule
        assert schedule.epochs == 3
        assert schedule.learning_rate == student.learning_rate / 100
        assert schedule.kd_learning_rate_factor == student.kd_learning_rate_factor


def test_prototypes_are_shared_where_they_do_not_depend_on_the_value(cells, tmp_path, monkeypatch):
    fitted = []

    def prototypes(experiment, teacher, folder, levels):
        if not (folder / "prototypes.npz").exists():
            fitted.append(folder.name)
            (folder / "prototypes.npz").write_bytes(b"1")

    monkeypatch.setattr(grid, "prototypes_of", prototypes)
    _main("temperature --values 0.5 1 2", tmp_path / "a")
    assert fitted == ["temperature-0.5"]
    copy = tmp_path / "a" / "temperature-2" / "prototypes.npz"
    assert copy.read_bytes() == b"1"
    copy.write_bytes(b"2")
    _main("temperature --values 0.5 2", tmp_path / "a")
    assert copy.read_bytes() == b"2"  # those that its students have
    _main("subclasses --values 2 4", tmp_path / "b")
    assert fitted[1:] == ["subclasses-2", "subclasses-4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subclasses --values 0.5", "--values must be an integer of at least 1"),
        ("subclasses --values 2,4", "separated by spaces"),
        ("subclasses", "--values must be given"),
        ("temperature --values 0", "--values must be a finite number greater than 0"),
        ("alphas --values 1", "--values does not apply to alphas"),
        ("alpha", "Did you mean alphas?"),
        ("templates --values 8 16 --growth 5%", "--growth chooses templates itself"),
        ("subclasses --values 2 --growth 5%", "--growth chooses subclasses itself"),
        ("penultimate-alpha --values 1 0 --growth 5%", "for the value 0"),
        ("temperature --values 1 2 --temperature 3", "--temperature has no effect"),
        ("learning-rate --values 1 --learning-rate 0.1", "--learning-rate has no effect"),
        ("learning-rate --values 1 --scale-learning-rate", "--scale-learning-rate does not apply"),
    ],
)
def test_values_that_are_refused(text, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        _main(text, tmp_path / "out")
    assert exit.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("probe --methods letkd2 letkd1", "`methods` of probe must have an intermediate KD layer"),
        ("tsne --methods student", "`methods` of tsne must have KD layers.*methods=student"),
        ("subclass-map --methods letkd1", "`methods` of subclass-map must have an intermediate"),
    ],
)
def test_methods_without_the_layer_that_is_read_are_refused(text, message, tmp_path, monkeypatch):
    def never(spec):
        raise AssertionError("the data were read")

    monkeypatch.setattr("letkd_keras.data.DataSpec.open", never)
    with pytest.raises(ValueError, match=message):
        _main(text, tmp_path / "out")


def test_values_are_drawn_in_ascending_order(tmp_path, monkeypatch):
    drawn, scales = [], []
    errorbar = Axes.errorbar

    def record(axes, x, *args, **options):
        drawn.append(x)
        scales.append(axes.get_xscale)
        return errorbar(axes, x, *args, **options)

    monkeypatch.setattr(Axes, "errorbar", record)
    row = {"title": "KD", "method": "kd", "top1_mean": 50.0, "top1_std": None}
    rows = [{**row, "templates": value} for value in (256, 64, 1024)]
    value_sweep._plot("templates", rows, {"top1": "top-1"}, tmp_path)
    rows = [{**row, "alpha": value} for value in (0, 0.5)]
    value_sweep._plot("alpha", rows, {"top1": "top-1"}, tmp_path)
    assert drawn == [[64, 256, 1024], [0, 0.5]]
    assert [scale() for scale in scales] == ["log", "linear"]  # a logarithm of 0 is nowhere


def test_names_of_data_and_layers_are_drawn_as_they_are(tmp_path):
    # Matplotlib would refuse this as an equation.
    name = "a$x{$b"
    setting = "student-intermediate-layer"
    row = {setting: name, "title": "KD", "method": "kd", "top1_mean": 50.0, "top1_std": None}
    value_sweep._plot(setting, [row, {**row, setting: "b"}], {"top1": "top-1"}, tmp_path)
    times = {f"milliseconds_{size}": 1.0 for size in layer_time.BATCH_SIZES}
    rows = [{"templates": count, **times} for count in (0, 8, 16)]
    layer_time._plot(rows, f"images of {name}", tmp_path / "time.png")
    for picture in ("values.png", "time.png"):
        assert Image.open(tmp_path / picture).width > 500


# === Probe ===


@keras.saving.register_keras_serializable("letkd_keras_tests")
class Sign(KDLayer):
    """Gives what separates the classes, whatever its input is."""

    def call(self, inputs, training=None):
        return keras.ops.sign(inputs) + 0.1 * keras.ops.tanh(inputs)


@pytest.fixture
def data():
    """Two classes of constant images. Their sign is the class, their size has no meaning."""
    r = np.random.default_rng(0)
    labels = np.arange(80) % 2
    values = np.where(labels, 1, -1) * 10 ** r.uniform(-3, 3, 80)
    images = np.broadcast_to(values[:, None, None, None], (80, 4, 4, 3)).astype("float32")
    splits = {"train": (images[:60], labels[:60]), "test": (images[60:], labels[60:])}
    data = SimpleNamespace(evaluation_batches=lambda split: [splits[split]])
    data.labelled = lambda: data
    return data


def _student(layer_class=Sign):
    inputs = keras.Input((4, 4, 3))
    x = layer_class(4, name="kd_intermediate")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))


def test_the_probe_reads_before_and_behind_the_layer(data):
    # Images without a label are left out.
    accuracies = probe.lda_accuracies(_student(), SimpleNamespace(labelled=lambda: data))
    assert accuracies["x_hat"] == 100
    assert accuracies["x"] < 100  # sizes over six decades hide the sign


def test_the_probe_is_fitted_to_training_images_and_scored_on_test_images(data):
    batches = data.evaluation_batches

    def with_wrong_test_labels(split):
        ((images, labels),) = batches(split)
        return [(images, 1 - labels if split == "test" else labels)]

    data.evaluation_batches = with_wrong_test_labels
    assert probe.lda_accuracies(_student(), data)["x_hat"] == 0


def test_features_are_those_of_the_images(data):
    features = layer_features.pooled_features(_student(), "kd_intermediate", data, "test")
    ((images, labels),) = data.evaluation_batches("test")
    np.testing.assert_allclose(features["x"], images.mean((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(features["labels"], labels)


def test_a_probe_is_written_with_the_published_numbers(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "lda_accuracies", lambda student, data: {"x": 40.0, "x_hat": 50.0})
    monkeypatch.setattr(probe, "load_model", lambda *args: None)
    out = tmp_path / "probe"
    _main("probe", out)
    assert "| letKD-2 | 1 | 40.00 | - | 50.00 | - |" in (out / "probe.md").read_text()
    rows = json.loads((out / "probe.json").read_text())
    assert [row["method"] for row in rows] == ["letkd_i0p1", "letkd2"]
    experiment = replace(
        cells[0][0],
        pair="resnet56-resnet20",
        methods=ablations.ABLATIONS["probe"].methods,
        spec=DataSpec("cifar100"),
    )
    object.__setattr__(experiment.data, "class_names", tuple(map(str, range(100))))
    text = probe._markdown(experiment, rows)
    assert "| letKD-2 | 1 | 40.00 | 51.71 | 50.00 | 56.36 |" in text
    assert "| letKD-2, intermediate alpha 0 | 1 | 40.00 | 52.71 | 50.00 | 52.71 |" in text
    part = replace(experiment, spec=DataSpec("cifar100", classes=20))
    object.__setattr__(part.data, "class_names", tuple(map(str, range(20))))
    assert "| letKD-2 | 1 | 40.00 | - | 50.00 | - |" in probe._markdown(part, rows)


# === t-SNE ===


def test_tsne_keeps_groups_apart():
    r = np.random.default_rng(0)
    features = np.concatenate([r.normal(0, 0.1, (20, 5)), r.normal(5, 0.1, (20, 5))])
    positions = tsne.embed(features)
    assert positions.shape == (40, 2)
    first, second = positions[:20], positions[20:]
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > 2 * np.linalg.norm(first - first.mean(0), axis=1).max()
    assert tsne.embed(features[:8]).shape == (8, 2)


def test_tsne_draws_the_first_method_that_is_named(cells, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(tsne, "write", lambda experiment, out, method: drawn.append(method))
    for named in ("letkd2", "letkd1", "letkd2+kd letkd1"):
        _main(f"tsne --methods {named} --test-examples 20", tmp_path / "out")
    # Where there is no intermediate layer.
    monkeypatch.setattr(grid, "run", lambda *args, **options: [{"method": "letkd1+kd"}])
    _main("tsne --methods letkd2+kd --test-examples 20", tmp_path / "out")
    assert drawn == ["letkd2", "letkd1", "letkd2+kd", "letkd1+kd"]


def test_tsne_of_a_trained_student(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(tsne, "embed", lambda features, seed: features[:, :2])
    monkeypatch.setattr(tsne, "_IMAGES", 15)
    student = keras.Sequential([keras.Input((32, 32, 3)), KDLayer(4, name="kd_intermediate")])
    x = KDLayer(4, alpha=0, name="kd_penultimate")(student.outputs[0])
    model = keras.Model(student.inputs, keras.layers.GlobalAveragePooling2D()(x))
    monkeypatch.setattr(tsne, "load_model", lambda *args: model)
    out = tmp_path / "tsne"
    assert _main("tsne --test-examples 20", out) == out / "tsne.png"
    assert Image.open(out / "tsne.png").width > 500
    with np.load(out / "tsne.npz") as file:
        positions = dict(file)
    # Not the first images, which may be of few classes.
    assert len(positions["labels"]) == 15
    assert set(positions["labels"]) == set(range(10))
    # With alpha 0 there is no value.
    assert set(positions) == {
        *("kd_intermediate:value", "kd_intermediate:x", "kd_intermediate:x_hat"),
        *("kd_penultimate:x", "kd_penultimate:x_hat", "labels"),
    }
    np.testing.assert_allclose(
        positions["kd_intermediate:value"],
        positions["kd_intermediate:x_hat"] - positions["kd_intermediate:x"],
        atol=1e-5,
    )


# === Time ===


def test_time_by_the_number_of_templates(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(layer_time, "milliseconds", lambda model, size: 1.5 / size)
    out = tmp_path / "time"
    rows = _main("time --values 64 16 --trials 2", out)
    assert "--trials has no effect: time trains no students." in caplog.text
    assert "--jobs" not in caplog.text
    assert [row["templates"] for row in rows] == [0, 16, 64]
    plain, *with_layer = rows
    for row in with_layer:
        # Two kernels of 64 channels, gamma and beta, two scales.
        added = row["templates"] * (2 * 64 + 2) + 2
        assert row["parameters"] - plain["parameters"] == added
    text = (out / "time.md").read_text()
    assert "| no KD layer |" in text and "| 1.500 | 0.023 |" in text
    assert Image.open(out / "time.png").width > 500
    assert ablations.TIMED[0] == 64 and ablations.TIMED[-1] == 4096
    assert (out / "config.json").exists()
    (out / "config.json").unlink()  # now a folder of the user
    with pytest.raises(ValueError, match="`out` must be a new or empty folder"):
        _main("time --values 64", out)


def test_a_student_is_timed_whose_multiply_adds_cannot_be_counted(tmp_path, monkeypatch):
    def unknown(*args):
        raise ValueError("it is not known how to count this layer")

    monkeypatch.setattr("letkd_keras.functional.cost.cost_of", unknown)
    monkeypatch.setattr(layer_time, "milliseconds", lambda model, size: 1.5 / size)
    rows = _main("time --values 16", tmp_path / "time")
    assert [row["multiply_adds"] for row in rows] == [None, None]
    assert " | - | 1.500 | 0.023 |" in (tmp_path / "time" / "time.md").read_text()


def test_a_step_is_timed(monkeypatch):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    times = iter([0, 7, 10, 11, 20, 22])
    monkeypatch.setattr(layer_time.time, "perf_counter", lambda: next(times))
    # The shortest of the steps of 7, 1 and 2 seconds, of 4 images each.
    assert layer_time.milliseconds(model, 4, repeats=3) == 250
    assert cifar100.SETTINGS.templates == 4096
