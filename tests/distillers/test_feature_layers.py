"""Which layers the methods compare by default: RepDistiller's."""

import keras
import numpy as np
import pytest

from letkd_keras import KDLayer, fit_prototypes, insert_kd_layers, models
from letkd_keras.distillers import AT, CRD, SP, VID, Distiller, FitNet, LetKD, SimKD
from letkd_keras.functional import suggest_stage_ends


def _pair(teacher, student):
    return models.build(teacher, 10), models.build(student, 10)


@pytest.mark.parametrize(
    ("pair", "stages"),
    [
        (("wrn40_1", "wrn16_1"), 3),
        (("resnet14", "snv1"), 3),
        (("resnet8x4", "snv2"), 3),
        (("resnet50", "mnv2"), 4),
    ],
)
def test_layers_of_networks_of_the_zoo(pair, stages):
    teacher, student = _pair(*pair)
    names = tuple(f"stage{i + 1}" for i in range(stages))
    for method, expected in ((AT, names), (FitNet, names[1:2]), (SP, names[-1:])):
        model = method(teacher, student)
        assert (model.teacher_layers, model.student_layers) == (expected, expected)
    shapes = VID(teacher, student).student_shapes
    assert len(shapes) == stages
    if pair[1] == "mnv2":  # narrow block outputs
        assert [shape[-1] for shape in shapes] == [12, 16, 48, 160]
    if pair[1] == "snv2":  # layer3, not conv2
        assert shapes[-1][-1] == 464


def test_raw_sums_of_a_wide_resnet_are_compared():
    teacher, student = _pair("wrn16_1", "wrn16_1")
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    features = SP(teacher, student).compute_teacher_outputs(x, None)["features"][0]
    assert float(keras.ops.min(features)) < 0


def test_crd_and_the_teacher_of_simkd_take_the_penultimate_layer():
    teacher, student = _pair("wrn16_1", "snv2")
    model = CRD(teacher, student, [0, 1] * 5, dimension=4, negatives=2)
    assert (model.teacher_layers, model.student_layers) == (("penultimate",), ("penultimate",))
    model = SimKD(teacher, student)
    assert model.teacher_layers == ("penultimate",)
    # The student up to the end of its last stage: its 464 channels are projected, not conv2's.
    assert model.student.get_layer("simkd_conv1").kernel.shape[2] == 464


def test_a_network_with_more_stages_gives_its_last_ones(setting, staged_networks):
    three, _ = staged_networks
    model = AT(three, setting.student())
    assert len(model.student_layers) == len(model.teacher_layers) < 3
    assert model.teacher_layers[-1] == suggest_stage_ends(three)[-1]


def test_as_many_layers_are_compared_as_are_given(staged_networks):
    model = AT(*staged_networks, teacher_layers=("stage1", "stage2"))
    assert model.student_layers == ("stage2", "stage3")


def test_layers_given_are_not_left_out_where_the_other_network_has_fewer(staged_networks, setting):
    names = ("stage1", "stage2", "stage3")
    with pytest.raises(ValueError, match=r"must be of the same length. .*'stage1', 'stage2', 'st"):
        AT(staged_networks[0], setting.student(), teacher_layers=names)


def test_the_second_stage_of_a_network_with_one_is_that_one(staged_networks):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="only")(inputs)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = FitNet(staged_networks[0], keras.Model(inputs, outputs))
    assert (model.teacher_layers, model.student_layers) == (("stage2",), ("only",))


def test_layers_given_are_used(setting):
    model = AT(setting.teacher, setting.student(), student_layers=("bn1",), teacher_layers=("bn2",))
    assert (model.teacher_layers, model.student_layers) == (("bn2",), ("bn1",))


def test_nothing_is_suggested_for_a_network_whose_layers_are_given(setting):
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Dense(8, name="hidden")(keras.layers.Flatten()(inputs))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    model = SP(teacher, setting.student(), teacher_layers=("hidden",))
    assert (model.teacher_layers, model.student_layers) == (("hidden",), ("penultimate",))


def test_a_method_of_ones_own_says_which_layers_it_compares(setting):
    class Last(Distiller):
        suggested_layers = "last"

    model = Last(setting.teacher, setting.student())
    sp = SP(setting.teacher, setting.student())
    assert (model.teacher_layers, model.student_layers) == (sp.teacher_layers, sp.student_layers)
    assert model.student_layers == (suggest_stage_ends(setting.student())[-1],)
    model = Distiller(setting.teacher, setting.student())
    assert (model.teacher_layers, model.student_layers) == ((), ())


@pytest.mark.parametrize("method", [FitNet, SP, SimKD])
def test_methods_that_compare_one_layer_refuse_several(setting, method):
    with pytest.raises(ValueError, match=r"`student_layers` must be the name of one layer"):
        method(setting.teacher, setting.student(), student_layers=("bn1", "bn2"))


@pytest.mark.parametrize("method", [Distiller, AT, FitNet])
def test_a_name_alone_is_one_layer(setting, method):
    model = method(setting.teacher, setting.student(), student_layers="bn1", teacher_layers="bn2")
    assert (model.teacher_layers, model.student_layers) == (("bn2",), ("bn1",))


@pytest.mark.parametrize("method", [AT, VID, FitNet])
def test_layers_without_a_feature_map_are_refused(setting, method):
    with pytest.raises(ValueError, match=r"`student_layers` must .*feature map.*'pool' of shape"):
        method(
            setting.teacher, setting.student(), student_layers=("pool",), teacher_layers=("bn2",)
        )


def test_crd_and_simkd_refuse_layers_without_a_feature_map(setting):
    expected = r"`student_layers` must .*feature map.*'pool' of shape"
    pooled = {"student_layers": ("pool",), "teacher_layers": ("penultimate",)}
    with pytest.raises(ValueError, match=expected):
        CRD(setting.teacher, setting.student(), setting.y, **pooled)
    with pytest.raises(ValueError, match=expected):
        SimKD(setting.teacher, setting.student(), **pooled)


@pytest.mark.parametrize("method", [AT, SimKD])
def test_layers_of_another_data_format_than_that_of_keras_are_refused(method):
    def network(width):
        inputs, first = keras.Input((3, 8, 8)), {"data_format": "channels_first"}
        x = keras.layers.Conv2D(width, 3, 2, activation="relu", name=f"conv{width}", **first)(
            inputs
        )
        x = keras.layers.GlobalAveragePooling2D(**first)(x)
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    with pytest.raises(
        ValueError, match=r"must have Keras' data format, 'channels_last'.*'conv\d'"
    ):
        method(network(6), network(4), student_layers="conv4", teacher_layers="conv6")


def _without_maps():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)], name="dense"
    )


@pytest.mark.parametrize("method", [AT, SP, CRD, SimKD, LetKD])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_network_of_which_no_layer_can_be_suggested_is_named(method, role, setting):
    networks = {"teacher": setting.teacher, "student": setting.student(), role: _without_maps()}
    more = {CRD: [[0, 1, 2]], LetKD: [setting.prototypes]}.get(method, [])
    if (method, role) == (LetKD, "teacher"):  # its layers come with its prototypes
        with pytest.raises(ValueError, match="`teacher` must have a feature map"):
            fit_prototypes(networks["teacher"], (setting.x, setting.y))
        return
    with pytest.raises(ValueError, match=f"`{role}` must have a feature map .* 'dense'"):
        method(*networks.values(), *more)


def test_a_student_without_a_place_for_kd_layers_is_named():
    with pytest.raises(ValueError, match="`student` must have a feature map"):
        insert_kd_layers(_without_maps(), penultimate=KDLayer(4))
