import json

import keras
import numpy as np
import pytest
from PIL import Image
from small_vit import small_vit

from letkd_keras.data import load_digits
from letkd_keras.recipes import folder
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight images of each digit, as files, in one folder a class."""
    root = tmp_path_factory.mktemp("photos")
    data = load_digits().subset(80)
    for number, (image, label) in enumerate(zip(data.x_train, data.y_train, strict=True)):
        file = root / data.class_names[label] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(file)
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A classifier as users have them: a nested backbone, preprocessing inside, a softmax."""
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, alpha=0.35, input_shape=(64, 64, 3)
    )
    inputs = keras.Input((64, 64, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(backbone(x))
    outputs = keras.layers.Dense(10, activation="softmax")(x)
    file = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    keras.Model(inputs, outputs, name="mine").save(file)
    return str(file)


def _options(photos, teacher, tmp_path, *more):
    return [
        *("--data", str(photos), "--teacher", teacher, "--student", "resnet8"),
        *("--epochs", "1", "--batch-size", "32", "--templates", "16", "--subclasses", "2"),
        *("--out", str(tmp_path / "run")),
        *more,
    ]


@pytest.mark.slow
def test_any_teacher_supervises_a_student_on_any_images(photos, teacher, tmp_path, caplog):
    options = _options(photos, teacher, tmp_path, "--methods", "letkd2", "--augment", "cutmix")
    with caplog.at_level("INFO", logger="letkd_keras"):
        report = folder.main(options)
    assert "penultimate out_relu 2x2x1280" in caplog.text
    assert (report["train_examples"], report["test_examples"]) == (64, 16)
    assert set(report["exported"]) == {"savedmodel", "tflite"}
    student = keras.models.load_model(tmp_path / "run" / "letkd2" / "seed0" / "student.keras")
    # The network scales raw pixels itself.
    assert student.get_layer("input_scaling").scale == pytest.approx(2 / 255)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["augmentation"] == {"crop_padding": 8, "flip": True, "policies": ["cutmix"]}
    assert config["teacher"]["penultimate_layer"] == "out_relu"


@pytest.mark.slow
def test_a_student_from_a_file_starts_from_its_weights(photos, teacher, tmp_path):
    keras.utils.set_random_seed(0)
    small = keras.applications.MobileNetV3Small(
        weights=None, classes=10, input_shape=(64, 64, 3), classifier_activation="softmax"
    )
    small.save(tmp_path / "small.keras")
    options = _options(photos, teacher, tmp_path, "--methods", "letkd1")
    options[options.index("resnet8")] = str(tmp_path / "small.keras")
    report = folder.main([*options, "--learning-rate", "1e-9"])
    student = keras.models.load_model(tmp_path / "run" / "letkd1" / "seed0" / "student.keras")
    kernels = [model.get_layer("conv").kernel for model in (student, small)]
    np.testing.assert_allclose(*kernels, atol=1e-6)
    assert report["pair"] == "teacher-small"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--student", "resnet9"], "`student` must be a network .*Did you mean 'resnet"),
        (
            ["--student-penultimate-layer", "penultimat"],
            "`student_penultimate_layer` must name a layer",
        ),
        (
            ["--teacher-penultimate-layer", "out_rel"],
            "`teacher_penultimate_layer` must name a layer.*out_relu",
        ),
        (["--student-weights", "imagenet"], "`student_weights` must be 'none' for 'resnet8'"),
        (["--augment", "cutmixx"], "`augment` must be names of randaugment, cutmix, mixup"),
        (["--templates", "100000"], "`templates` must be at most the 256 feature vectors"),
        (["--methods", "letkd2", "letkd3"], "`methods` must be of"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(
    options, message, photos, teacher, tmp_path
):
    with pytest.raises(ValueError, match=message):
        folder.main([*_options(photos, teacher, tmp_path), *options])
    assert not (tmp_path / "run").exists()


def test_results_are_not_written_into_the_data(photos, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`out` must not be in a folder .*out='.*results'"):
        _experiment(f"--out {photos / 'results'}", photos, tmp_path)
    monkeypatch.chdir(photos)
    options = ["--data", ".", "--teacher", "resnet14", "--student", "resnet8"]
    with pytest.raises(ValueError, match=r"`out` must not be in a folder .*out='runs'"):
        experiment_of(folder.parse(options), folder.SETTINGS)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("student", "kd", "letkd2+dkd")),
        (["--methods", "letkd2", "student"], ("letkd2", "student")),
    ],
)
def test_the_student_of_the_last_method_is_exported(
    options, expected, photos, teacher, tmp_path, monkeypatch
):
    experiments = []

    def run(experiment, out, measures):
        experiments.append(experiment)
        raise KeyboardInterrupt

    monkeypatch.setattr("letkd_keras.recipes.run.run", run)
    with pytest.raises(KeyboardInterrupt):
        folder.main([*_options(photos, teacher, tmp_path), *options])
    (experiment,) = experiments
    assert experiment.methods == expected
    assert experiment.export_method == expected[-1]


def _experiment(text, photos, tmp_path):
    parsed = folder.parse([*_options(photos, "resnet14", tmp_path), *text.split()])
    return experiment_of(parsed, folder.SETTINGS)


@pytest.mark.parametrize(
    ("pixels", "black", "white"),
    [
        ("0..255", (0, 0, 0), (255, 255, 255)),
        ("0..1", (0, 0, 0), (1, 1, 1)),
        ("-1..1", (-1, -1, -1), (1, 1, 1)),
        ("imagenet", (-2.1179, -2.0357, -1.8044), (2.2489, 2.4286, 2.64)),
    ],
)
def test_pixels_are_scaled_as_the_option_says(pixels, black, white, photos, tmp_path):
    experiment = _experiment(f"--pixels={pixels} --image-size 16", photos, tmp_path)
    mean, std = (np.array(x) for x in (experiment.data.mean, experiment.data.std))
    np.testing.assert_allclose((0 - mean) / std, black, atol=1e-4)
    np.testing.assert_allclose((1 - mean) / std, white, atol=1e-4)
    assert experiment.data.image_shape == (16, 16, 3)


def test_options_reach_the_experiment(photos, tmp_path):
    text = "--no-flip --learning-rate 0.01 --methods kd quest --image-size 16"
    experiment = _experiment(text, photos, tmp_path)
    # Raw pixels are the default.
    np.testing.assert_allclose(experiment.data.mean, (0, 0, 0))
    np.testing.assert_allclose(experiment.data.std, (1 / 255,) * 3)
    assert experiment.augmentation == {"crop_padding": 2, "flip": False}
    schedules = experiment.teacher_schedule, experiment.student_schedule
    assert [schedule.learning_rate for schedule in schedules] == [0.001, 0.01]
    assert [schedule.epochs for schedule in schedules] == [1, 1]
    assert experiment.methods == ("kd", "quest")


@pytest.mark.parametrize(
    ("text", "optimizer", "schedule", "learning_rate", "weight_decay"),
    [
        ("", "adamw", "cosine", 0.001, 0.05),
        ("--schedule steps", "adamw", "steps", 0.001, 0.05),
        ("--optimizer sgd", "sgd", "cosine", 0.05, 5e-4),
        ("--optimizer sgd --schedule steps --weight-decay 0", "sgd", "steps", 0.05, 0.0),
    ],
)
def test_the_optimizer_of_photos_is_adamw_with_a_cosine(
    photos, tmp_path, text, optimizer, schedule, learning_rate, weight_decay
):
    experiment = _experiment(f"{text} --image-size 16", photos, tmp_path)
    for made in (experiment.teacher_schedule, experiment.student_schedule):
        assert (made.optimizer, made.schedule) == (optimizer, schedule)
        assert (made.learning_rate, made.weight_decay) == (learning_rate, weight_decay)


def test_images_have_the_size_of_a_file_that_takes_one_size(photos, teacher, tmp_path):
    options = _options(photos, teacher, tmp_path)
    assert experiment_of(folder.parse(options), folder.SETTINGS).data.image_shape == (64, 64, 3)
    options[options.index(teacher)] = "resnet8"
    assert experiment_of(folder.parse(options), folder.SETTINGS).data.image_shape == (64, 64, 3)


@pytest.mark.slow
def test_networks_by_name(photos, tmp_path, caplog):
    """EfficientNetB0 supervises MobileNetV3Small, both with fresh weights."""
    options = _options(photos, "keras.applications:EfficientNetB0", tmp_path)
    options[options.index("resnet8")] = "keras.applications:MobileNetV3Small"
    with caplog.at_level("INFO", logger="letkd_keras"):
        report = folder.main(
            [
                *(*options, "--teacher-weights", "none", "--student-weights", "none"),
                *("--image-size", "64", "--methods", "letkd2", "--growth", "20%"),
                *("--formats", "tflite"),
            ]
        )
    assert report["pair"] == "EfficientNetB0-MobileNetV3Small"
    assert report["exported"]["tflite"]["agreement"] > 0.9
    assert "hardly better than chance" not in caplog.text
    sizes = report["sizes"]
    added = sizes["student_with_kd_layers"]["parameters"] / sizes["student"]["parameters"]
    assert added <= 1.2
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"]["source"] == "keras.applications:EfficientNetB0"
    assert config["student"]["weights"] == "none"


def test_images_have_the_size_of_the_student(photos, teacher, tmp_path):
    inputs = keras.Input((16, 16, 3))
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs))).save(
        tmp_path / "s.keras"
    )
    options = _options(photos, teacher, tmp_path, "--methods", "kd", "--formats", "savedmodel")
    options[options.index("resnet8")] = str(tmp_path / "s.keras")
    experiment = experiment_of(folder.parse(options), folder.SETTINGS)
    assert experiment.data.image_shape == (16, 16, 3)
    teacher = experiment.teacher.build(experiment.data, "teacher")
    assert teacher.get_layer("input_resizing").output.shape == (None, 64, 64, 3)


@pytest.mark.slow
def test_a_transformer_teaches_on_a_grid_that_does_not_divide(photos, tmp_path, caplog):
    """A ViT of 7x7 patches, which is trained first, and a student of 4x4 locations."""
    small_vit(size=28, patch=4, classes=10).save(tmp_path / "vit.keras")
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, 8, padding="same", activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(tmp_path / "s.keras")
    options = _options(photos, str(tmp_path / "vit.keras"), tmp_path, "--methods", "letkd2")
    options += ["--student-intermediate-layer", "first"]
    options[options.index("resnet8")] = str(tmp_path / "s.keras")
    with caplog.at_level("INFO", logger="letkd_keras"):
        report = folder.main([*options, "--fine-tune-epochs", "1", "--formats", "tflite"])
    assert (
        "layers of the teacher vit.keras: penultimate norm 7x7x12, intermediate block3"
        in caplog.text
    )
    assert "targets of the penultimate level are averaged to a grid of 4x4" in caplog.text
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pool_sizes"] == {"penultimate": 1, "intermediate": 1}
    assert report["exported"]["tflite"]["agreement"] > 0.9
