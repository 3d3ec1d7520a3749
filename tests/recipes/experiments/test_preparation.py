"""What `prepare` resolves and refuses before any training."""

import re
from dataclasses import replace

import keras
import pytest
from digit_classifiers import classifier, one_block

from letkd_keras import KDLayer, insert_kd_layers
from letkd_keras.data import ImageData
from letkd_keras.models import build
from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments import preparation
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.trainings import gpus, sharing

SMALL = "--train-examples 40 --test-examples 20 --batch-size 20 --templates 16"


def _experiment(text=""):
    return experiment_of(digits.parse(f"{SMALL} {text}".split()), digits.SETTINGS)


def test_letkd1_is_used_where_a_network_has_no_intermediate_layer(tmp_path, caplog):
    one_block(tmp_path / "t.keras")
    experiment = replace(
        _experiment(f"--methods student letkd2 letkd1+kd letkd2+kd --teacher {tmp_path}/t.keras"),
        export_method="letkd2",
    )
    with caplog.at_level("WARNING", logger="letkd_keras"):
        prepared = prepare(experiment)
    assert prepared.methods == ("student", "letkd1", "letkd1+kd")
    assert prepared.export_method == "letkd1"
    assert prepared.levels == ("penultimate",)
    (message,) = [record.message for record in caplog.records if "letkd1 is used" in record.message]
    assert message.startswith("t has no intermediate layer that could be suggested")
    caplog.clear()
    one_block(tmp_path / "s.keras")
    student = _experiment(f"--student {tmp_path}/s.keras").student
    prepare(replace(experiment, student=student))
    assert "t and s have no intermediate layer that" in caplog.text
    with pytest.raises(ValueError, match="letkd_i1 needs an intermediate layer"):
        prepare(replace(experiment, methods=("letkd_i1",)))


def test_options_without_effect_are_warned_about_where_there_are_no_kd_layers(caplog):
    text = "--temperature 4 --penultimate-alpha 1 --template-scale 3 --methods"

    def warnings(methods):
        caplog.clear()
        prepare(_experiment(f"{text} {methods}"))
        texts = [record.message for record in caplog.records if "no effect" in record.message]
        return [text.replace(" has no effect: students by student, kd", ":") for text in texts]

    # The template scale is the default; the templates are those of SMALL.
    assert warnings("student kd") == [
        "--templates: have no KD layers.",
        "--temperature: have no KD layers.",
        "--penultimate-alpha: have no KD layers.",
    ]
    assert warnings("fitnet_layer kd") == []


def test_the_layers_chosen_are_logged(caplog):
    with caplog.at_level("INFO", logger="letkd_keras"):
        prepare(_experiment("--methods letkd2"))
    assert "layers of the teacher resnet20: penultimate 8x8x64" in caplog.text
    assert "layers of the student resnet8: penultimate 8x8x64" in caplog.text


def test_a_teacher_without_feature_maps_can_distil_by_kd_only(tmp_path):
    classifier(tmp_path / "t.keras", [keras.layers.Flatten()])
    prepare(_experiment(f"--methods kd --teacher {tmp_path}/t.keras"))
    with pytest.raises(ValueError, match="feature map"):
        prepare(_experiment(f"--methods letkd1 --teacher {tmp_path}/t.keras"))


def test_a_method_that_does_not_fit_the_teacher_is_refused(tmp_path):
    maps = [keras.layers.Conv2D(4, 3, strides=2, padding="same") for _ in range(3)]
    classifier(tmp_path / "t.keras", [*maps, keras.layers.Flatten()])
    prepare(_experiment(f"--methods student fitnet --teacher {tmp_path}/t.keras"))
    with pytest.raises(ValueError, match=r"simkd does not fit.*'flatten(_\d+)?' of Flatten"):
        prepare(_experiment(f"--methods student simkd --teacher {tmp_path}/t.keras"))
    stages = [keras.layers.Conv2D(4, 3, strides=4, name="stage1"), keras.layers.Flatten()]
    classifier(tmp_path / "t.keras", [*stages, keras.layers.Dense(4, name="stage2")])
    for method in ("fitnet", "fitnet_letkd"):
        with pytest.raises(ValueError, match=f"{method} does not fit.*'stage2' of shape"):
            prepare(_experiment(f"--methods student {method} --teacher {tmp_path}/t.keras"))


def test_a_student_with_kd_layers_is_trained_by_methods_that_insert_no_others(tmp_path):
    student = insert_kd_layers(build("resnet8", num_classes=10), KDLayer(4, name="kd_penultimate"))
    student.save(tmp_path / "s.keras")
    text = f"--pair resnet20-resnet8 --student {tmp_path}/s.keras"
    prepare(_experiment(f"--methods kd letkd_i1 {text}"))
    for method in ("letkd1", "quest", "fitnet_layer", "letkd2+dkd --growth 30%"):
        with pytest.raises(ValueError, match=r"`student` must have no KD .* with kd_penultimate$"):
            prepare(_experiment(f"--methods kd {method} {text}"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--batch-size 41", r"`batch_size` must be at most the 40 training images\. Received"),
        (
            "--warm-up-epochs 2 --epochs 2 --teacher-epochs 3",
            "`warm_up_epochs` must be less than the 2 epochs of the student",
        ),
        (
            "--warm-up-epochs 2 --epochs 3 --teacher-epochs 2",
            "`warm_up_epochs` must be less than the 2 epochs of the teacher",
        ),
        ("--templates 2561", "`templates` must be at most the 2560 feature vectors"),
        ("--student-penultimate-layer penultimat", "`student_penultimate_layer` must name a layer"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        prepare(_experiment(f"--methods letkd2 {text}"))


def test_what_just_fits():
    prepare(_experiment("--methods letkd1 --batch-size 40 --templates 2560"))


def test_grids_that_no_method_compares_need_not_fit(monkeypatch):
    def refuse(*arguments):
        raise ValueError("a student with tokens")

    monkeypatch.setattr(preparation, "pool_size", refuse)
    assert prepare(_experiment("--methods kd")).pool_sizes == {}
    with pytest.raises(ValueError, match="a student with tokens"):
        prepare(_experiment("--methods letkd1"))


def test_subclasses_that_no_method_needs_need_not_fit():
    assert set(prepare(_experiment("--methods letkd1 --subclasses 64")).pool_sizes) == {
        "penultimate",
        "intermediate",
    }
    too_many = "--subclasses 9999 --methods"
    assert prepare(_experiment(f"{too_many} letkd1")).pool_sizes == {"penultimate": 1}
    with pytest.raises(ValueError, match="`subclasses` must be at most"):
        prepare(_experiment(f"{too_many} letkd2"))


def test_class_weights_are_checked_before_any_training(monkeypatch):
    def refuse(data):
        raise ValueError("records")

    monkeypatch.setattr(preparation, "balanced_class_weights", refuse)
    with pytest.raises(ValueError, match="records"):
        prepare(_experiment("--class-weights balanced"))


def test_a_trained_teacher_has_no_warm_up(tmp_path):
    classifier(tmp_path / "t.keras", [keras.layers.Flatten()])
    text = "--methods kd --warm-up-epochs 2 --epochs 3 --teacher-epochs 2 --fine-tune-epochs 2"
    prepared = prepare(_experiment(f"{text} --teacher {tmp_path}/t.keras"))
    assert list(prepared.teacher_phases) == ["fine_tune_schedule"]
    assert prepared.fine_tune_schedule.warm_up_epochs == 0
    assert prepared.student_schedule.warm_up_epochs == 2


class _Workers:
    def __init__(self, devices=8):
        self.devices = devices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`batch_size` must be a multiple of the 8 devices of all workers.*batch_size=20"),
        ("--batch-size 16 --clip-norm 1", "`clip_norm` cannot be used by several workers"),
        ("--batch-size 16 --methods crd", "crd must be trained without workers.*devices=8"),
    ],
)
def test_what_several_workers_cannot_train_is_refused(text, message):
    with sharing.by(_Workers()), pytest.raises(ValueError, match=message):
        prepare(_experiment(text))
    assert sharing.current() is None


def test_one_device_may_clip_the_gradient_and_several_gpus_may_not(monkeypatch):
    experiment = _experiment("--clip-norm 1")
    with sharing.by(_Workers(devices=1)):
        prepare(experiment)
    monkeypatch.setattr(gpus, "used_together", lambda: 2)
    with pytest.raises(ValueError, match=r"`clip_norm` .* on several GPUs.*clip_norm=1.0 with 2"):
        prepare(experiment)


def test_crd_is_refused_on_streamed_images_and_on_several_gpus(monkeypatch):
    experiment = _experiment("--methods kd crd")
    monkeypatch.setattr(ImageData, "in_memory", False)
    with pytest.raises(ValueError, match=r"must be in memory. Received: digits"):
        prepare(experiment)
    prepare(replace(experiment, methods=("kd",)))
    monkeypatch.setattr(ImageData, "in_memory", True)
    monkeypatch.setattr(gpus, "used_together", lambda: 2)
    with pytest.raises(ValueError, match=r"crd must be trained on one GPU.*Received: 2 GPUs"):
        prepare(experiment)
    prepare(replace(experiment, methods=("sp",)))


def test_standardized_logits_of_two_classes_are_refused():
    for method in ("kd-ls", "letkd1+dkd-ls", "letkd1+kd-ls+dist"):
        advice = re.escape(f"use {method.replace('-ls', '')}. Received: data of two classes")
        with pytest.raises(ValueError, match=advice):
            prepare(_experiment(f"--classes 2 --methods {method}"))
    prepare(_experiment("--classes 2 --methods kd dkd"))


@pytest.mark.parametrize("number", [9, 41])
def test_too_few_and_too_many_images_of_students_are_refused(number):
    with pytest.raises(ValueError, match="`student_examples`"):
        prepare(_experiment(f"--student-examples {number}"))
