"""From options to an experiment; nothing is trained."""

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import keras
import pytest
from small_image_data import image_data

from letkd_keras.data.npz import save_npz
from letkd_keras.recipes import cifar100, compare, digits, folder, imagenet, tiny_imagenet
from letkd_keras.recipes.experiments.experiment_from_options import _augmentation, experiment_of
from letkd_keras.recipes.recipe_of_data import settings_of

pytestmark = pytest.mark.usefixtures("cifar100_noise")


def _experiment(recipe, text):
    return experiment_of(recipe.parse(text.split()), recipe.SETTINGS)


def test_the_papers_command():
    experiment = _experiment(cifar100, "--pair wrn40_2-snv1")
    assert (experiment.teacher.title, experiment.student.title) == ("wrn40_2", "snv1")
    assert experiment.methods == ("letkd2",)
    teacher, student = experiment.teacher_schedule, experiment.student_schedule
    assert (teacher.learning_rate, teacher.milestones) == (0.05, (150, 180, 210))
    assert (student.learning_rate, student.milestones) == (0.01, (150, 180, 210))
    assert (student.epochs, student.batch_size, student.momentum) == (240, 64, 0.9)
    assert student.weight_decay == 5e-4
    assert experiment.augmentation == {"crop_padding": 4, "flip": True}
    assert (experiment.templates, experiment.subclasses, experiment.components) == (4096, 8, 60)
    assert (experiment.temperature, experiment.initial_template_scale) == (1, 3)
    # k-means gets all feature vectors; without the cache as many as `fit_prototypes` takes.
    assert (experiment.feature_cache, experiment.memory) == ("float32", None)
    assert (experiment.penultimate_weight, experiment.intermediate_weight) == (1, 1)
    assert (experiment.penultimate_alpha, experiment.intermediate_alpha) == (1, 1)
    assert experiment.formats == ("savedmodel", "tflite")
    assert experiment.published("letkd2").top1 == 77.08
    assert experiment.published("letkd2").spread == 0.12
    assert experiment.published("teacher").top1 == 75.61


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_packages_of_formats_are_looked_for_before_any_training(monkeypatch, backend):
    installed = importlib.util.find_spec
    hidden = lambda name: None if name == "onnxruntime" else installed(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    if backend == "jax":  # where nothing is exported
        assert _experiment(cifar100, "--formats onnx").formats == ("onnx",)
        return
    with pytest.raises(ImportError, match="The format onnx needs onnxruntime: pip install"):
        _experiment(cifar100, "--formats tflite onnx")


def test_randaugment_is_refused_for_grey_images_before_any_training(tmp_path):
    pytest.importorskip("keras_cv")
    color = image_data()
    grey = {name: getattr(color, name)[..., :1] for name in ("x_train", "x_test")}
    save_npz(replace(color, **grey, mean=(0.5,), std=(0.2,)), tmp_path / "grey.npz")
    data = f"--data {tmp_path / 'grey.npz'}"
    message = "`augment` can have randaugment only .* three channels. Received: images with 1"
    with pytest.raises(ValueError, match=message):
        _experiment(digits, f"{data} --augment cutmix randaugment")
    policies = _experiment(digits, f"{data} --augment cutmix").augmentation["policies"]
    assert policies == ["cutmix"]  # which mixes images of any number of channels


def test_a_method_that_is_named_twice_is_trained_once():
    experiment = _experiment(cifar100, "--methods kd letkd2 kd")
    assert experiment.methods == ("kd", "letkd2")


def test_images_of_another_size_are_cropped_by_the_same_share():
    data = SimpleNamespace(in_memory=True, image_shape=(16, 16, 3))
    augmentation = _augmentation(cifar100.parse([]), cifar100.SETTINGS, data)
    assert augmentation == {"crop_padding": 2, "flip": True}


def test_alphas_are_the_pairs_unless_they_are_given():
    experiment = _experiment(cifar100, "--pair resnet50-mnv2 --intermediate-alpha 0")
    assert (experiment.penultimate_alpha, experiment.intermediate_alpha) == (0.1, 0)


def test_every_setting_of_the_supplement_can_be_given():
    experiment = _experiment(
        cifar100,
        "--templates 16 --subclasses 3 --components 7 --iterations 5 --temperature 0.5 "
        "--penultimate-alpha 0.3 --penultimate-weight 2 --intermediate-weight 0 "
        "--learning-rate 0.02 --teacher-learning-rate 0.03 --epochs 24 --teacher-epochs 48 "
        "--memory 1M --feature-cache none --student-intermediate-layer x "
        "--teacher-penultimate-layer y --no-flip --seed 7 --trials 3 --block-size 8 "
        "--template-scale 5 --kd-learning-rate-factor 4",
    )
    assert (experiment.templates, experiment.subclasses, experiment.components) == (16, 3, 7)
    assert (experiment.iterations, experiment.temperature, experiment.memory) == (5, 0.5, 2**20)
    assert experiment.feature_cache is None
    assert experiment.penultimate_alpha == 0.3
    assert (experiment.penultimate_weight, experiment.intermediate_weight) == (2, 0)
    assert experiment.student_schedule.learning_rate == 0.02
    assert experiment.initial_template_scale == 5
    assert experiment.student_schedule.kd_learning_rate_factor == 4
    assert experiment.teacher_schedule.kd_learning_rate_factor == 1
    assert experiment.student_schedule.milestones == (15, 18, 21)
    assert experiment.teacher_schedule.learning_rate == 0.03
    assert experiment.teacher_schedule.epochs == 48
    assert experiment.student.intermediate_layer == "x"
    assert experiment.teacher.penultimate_layer == "y"
    assert not experiment.augmentation["flip"]
    assert list(experiment.seeds) == [7, 8, 9]
    assert experiment.block_size == 8


def test_milestones_are_those_of_the_student_and_scaled_for_the_teacher():
    experiment = _experiment(cifar100, "--epochs 40 --teacher-epochs 80 --milestones 10 35")
    assert experiment.student_schedule.milestones == (10, 35)
    assert experiment.teacher_schedule.milestones == (20, 70)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--milestones 3 2", r"`milestones` must increase .* 240 epochs .*milestones=3 2"),
        ("--milestones 2 2", "`milestones` must increase"),
        ("--epochs 9 --milestones 2 9", "be less than the 9 epochs of a student"),
        ("--schedule cosine --milestones 2", r"schedule steps: .*Received: schedule=cosine"),
    ],
)
def test_milestones_that_do_not_fit_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        _experiment(cifar100, text)


def test_every_recipe_can_hold_out_images():
    for recipe, text in ((cifar100, ""), (digits, "--train-examples 200"), (compare, "")):
        parsed = recipe.parse([*text.split(), "--validation-fraction", "0.5"])
        settings = getattr(recipe, "SETTINGS", None) or settings_of(parsed)
        data = experiment_of(parsed, settings).data
        assert data.has_validation
        assert "held out for validation" in data.split
    for recipe in (folder, tiny_imagenet, imagenet):
        given = ["--data", "x", "--teacher", "resnet8", "--student", "resnet8"]
        assert recipe.parse([*given, "--validation-fraction", "0.5"]).validation_fraction == 0.5


def test_numbers_of_the_paper_mean_nothing_for_a_part_of_the_classes():
    experiment = _experiment(cifar100, "--pair resnet56-resnet20 --classes 20")
    assert experiment.published("letkd2") is None
    assert _experiment(digits, "").published("letkd2") is None


def test_the_pair_is_that_of_the_networks(tmp_path):
    (tmp_path / "mine.keras").touch()
    experiment = _experiment(cifar100, "--pair resnet56-resnet20 --teacher resnet110")
    assert experiment.pair == "resnet110-resnet20"
    assert experiment.published("letkd2").top1 == 73.38
    # A file counts as the network of a pair that was typed.
    experiment = _experiment(cifar100, f"--pair wrn40_2-snv1 --teacher {tmp_path}/mine.keras")
    assert experiment.pair == "wrn40_2-snv1"
    assert experiment.student_schedule.learning_rate == 0.01
    experiment = _experiment(cifar100, "--student mnv2")
    assert (experiment.pair, experiment.student_schedule.learning_rate) == ("resnet56-mnv2", 0.01)


def test_a_file_is_no_network_of_the_default_pair_unless_its_model_has_the_name(tmp_path):
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(100)(keras.layers.GlobalAveragePooling2D()(inputs))
    for name in ("resnet56", "mine"):
        keras.Model(inputs, outputs, name=name).save(tmp_path / f"{name}_model.keras")
    experiment = _experiment(cifar100, f"--teacher {tmp_path}/resnet56_model.keras")
    assert experiment.pair == "resnet56-resnet20"
    (tmp_path / "damaged.keras").write_bytes(b"no network")
    for options, pair in (
        (f"--teacher {tmp_path}/mine_model.keras", "mine_model-resnet20"),
        (f"--student {tmp_path}/damaged.keras", "resnet56-damaged"),
    ):
        experiment = _experiment(cifar100, options)
        assert experiment.pair == pair
        assert experiment.published("letkd2") is None


def test_networks_without_a_pair(tmp_path):
    parsed = compare.parse(["--data", str(tmp_path)])
    with pytest.raises(ValueError, match="`teacher` and `student` must be given, or `pair`"):
        experiment_of(parsed, settings_of(parsed))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--methods letkd", "`methods` must be of student, kd.*Did you mean letkd"),
        ("--methods letkd2+dk", "Did you mean dkd"),
        ("--pair resnet56-resnet2", "`pair` must be one of wrn40_2-wrn16_2"),
        ("--teacher absent.keras", "`teacher` must be a .keras file"),
        ("--student resnet88", "`student` must be a network .*Did you mean 'resnet8"),
        ("--formats tflit", "`formats` must be.*tflit"),
        ("--augment cutmixx", "`augment` must be names of randaugment, cutmix, mixup"),
    ],
)
def test_names_are_checked_before_the_data_are_read(text, message, monkeypatch):
    def never(spec):
        raise AssertionError("the data were read")

    monkeypatch.setattr("letkd_keras.data.DataSpec.open", never)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        _experiment(cifar100, text)


def test_keras_cv_is_imported_before_the_data_are_read(monkeypatch):
    def never(spec):
        raise AssertionError("the data were read")

    monkeypatch.setattr("letkd_keras.data.DataSpec.open", never)
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ImportError, match=r"pip install 'letkd-keras\[augment\]'"):
        _experiment(cifar100, "--augment mixup")
