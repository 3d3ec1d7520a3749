"""What all distillers make of losses, regularizers, layers that they train beside, and files."""

import keras
import numpy as np
import pytest
from keras import ops

from letkd_keras.distillers import CRD, KD, Distiller, SimKD

LAYERS = {"student_layers": ("penultimate",), "teacher_layers": ("penultimate",)}


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_regularizers_count_once_whatever_the_weight_of_the_task(setting, weight):
    model = KD(setting.teacher, setting.student(l2=0.1), task_weight=weight)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    penalty = 0.1 * float(np.sum(np.square(model.student.get_layer("fc").kernel)))
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    plain = KD(setting.teacher, setting.student(), task_weight=weight)
    plain.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    expected = plain.train_on_batch(setting.x, setting.y, return_dict=True)
    assert logs["task_loss"] == pytest.approx(expected["task_loss"], rel=1e-5)
    assert logs["loss"] == pytest.approx(expected["loss"] + penalty, rel=1e-5)
    # Evaluation is that of any model: its loss has the regularizers.
    evaluated = model.evaluate(setting.x, setting.y, verbose=0)
    own = plain.evaluate(setting.x, setting.y, verbose=0)
    assert evaluated == pytest.approx(own + penalty, rel=1e-5)


def test_without_a_weight_of_the_task_regularizers_still_move_weights(setting):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, kernel_regularizer=keras.regularizers.L2(0.5))(inputs)
    x = keras.layers.Identity(name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    student = keras.Model(inputs, keras.layers.Dense(3)(x))
    model = SimKD(setting.teacher, student, weight=0.0, **LAYERS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    before = np.array(model.student.layers[1].kernel)
    model.train_on_batch(setting.x, setting.y)
    # The gradient of 0.5 |w|^2 is w.
    np.testing.assert_allclose(model.student.layers[1].kernel, 0.9 * before, rtol=1e-5)


def test_a_subclass_changes_training_and_evaluation_by_compute_loss(setting):
    class Doubled(Distiller):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    logs = []
    for method in (Distiller, Doubled):
        model = method(setting.teacher, setting.student())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
        trained = model.train_on_batch(setting.x, setting.y, return_dict=True)
        logs.append(
            [trained["loss"], trained["task_loss"], model.evaluate(setting.x, setting.y, verbose=0)]
        )
    np.testing.assert_allclose(logs[1], 2 * np.array(logs[0]), rtol=1e-3)


def test_what_a_method_adds_by_add_loss_counts_in_its_own_step_alone(setting):
    class Small(Distiller):
        def compute_student_outputs(self, x):
            outputs = super().compute_student_outputs(x)
            self.add_loss(ops.mean(ops.square(outputs["logits"])))
            return outputs

    model = _compiled(Small(setting.teacher, setting.student()))
    model.optimizer.learning_rate = 0.0
    expected = np.mean(np.square(model.student(setting.x, training=True)))
    for _ in range(2):
        model.reset_metrics()
        logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
        np.testing.assert_allclose(logs["loss"] - logs["task_loss"], expected, rtol=1e-4)


def test_an_override_of_compute_loss_needs_no_argument_training(setting):
    class WithoutTraining(Distiller):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return 1.0 + super().compute_loss(x, y, y_pred, sample_weight)

    model = _compiled(WithoutTraining(setting.teacher, setting.student()))
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    assert logs["task_loss"] > 1.0


class Squares(Distiller):
    """A method whose losses are chosen by a test."""

    def __init__(self, teacher, student, losses, adapter=None):
        super().__init__(teacher, student, loss_weights={"squares": 1.0})
        self.make_losses, self.adapter = losses, adapter

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        logits = student_outputs["logits"]
        if self.adapter is not None:
            logits = self.adapter(logits, training=True)
        return self.make_losses(ops.square(teacher_outputs["logits"] - logits))


def _mean(squares):
    return {"squares": ops.mean(squares)}


def _compiled(model, reduction="sum_over_batch_size"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    return model


def test_the_activity_regularizer_of_an_adapter_is_part_of_the_loss(setting):
    adapter = keras.layers.Dense(3, activity_regularizer=keras.regularizers.L2(0.5))
    adapter.build((None, 3))
    model = _compiled(Squares(setting.teacher, setting.student(), _mean, adapter))
    model.optimizer.learning_rate = 0.0
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    outputs = ops.convert_to_numpy(adapter(model.student(setting.x, training=True)))
    # Keras divides what depends on a batch by the number of its images.
    expected = 0.5 * np.sum(outputs**2) / len(setting.x)
    regularizers = logs["loss"] - logs["task_loss"] - logs["squares"]
    np.testing.assert_allclose(regularizers, expected, rtol=1e-4)


def test_a_student_does_not_train_weights_of_its_teacher(setting):
    inputs = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(4, 1, name="shared")

    def network():
        x = keras.layers.GlobalAveragePooling2D()(shared(inputs))
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    teacher, student = network(), network()
    refused = r"^`student` must not train weights of `teacher`.*: 2 weights of both, such as shared"
    with pytest.raises(ValueError, match=refused):
        KD(teacher, student)
    shared.trainable = False
    model = _compiled(KD(teacher, student))
    model.train_on_batch(setting.x, setting.y)
    # It may have been released since.
    shared.trainable = True
    model = _compiled(model)
    before = shared.get_weights()
    with pytest.raises(ValueError, match=refused):
        model.train_on_batch(setting.x, setting.y)
    for weight, expected in zip(shared.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_layers_and_losses_of_ones_own_are_made_again_from_a_configuration(setting):
    class Twice(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    class Difference(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return ops.mean(ops.abs(y_true[0] - y_pred), axis=-1)

    student = setting.student()
    student = keras.Model(student.inputs, Twice()(student.outputs[0]))
    model = Distiller(setting.teacher, student, logit_losses={"difference": (Difference(), 0.5)})
    config = model.get_config()
    names = list(config)
    own = {"Twice": Twice, "Difference": Difference}
    again = Distiller.from_config(config, custom_objects=own)
    assert list(config) == names  # left as it was
    assert type(again.student.layers[-1]) is Twice
    assert type(again.logit_losses["difference"]) is Difference
    assert again.distillation_weights == {"difference": 0.5}


def test_a_loss_of_a_method_may_be_a_number(setting):
    model = _compiled(Squares(setting.teacher, setting.student(), lambda x: {"squares": 0.5}))
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    assert float(logs["loss"] - logs["task_loss"]) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (lambda x: {}, r".*\['squares'\]. Received: \[\]"),
        (lambda x: {"squares": x}, r"scalars.*'squares' of shape \(12, 3\)"),
        (lambda x: {"squares": _mean(x)}, "scalars.*'squares' of dict"),
        (lambda x: {"squares": None}, "scalars.*'squares' of NoneType"),
        (lambda x: {"square": ops.mean(x)}, r".*\['squares'\]. Received: \['square'\]"),
        (lambda x: {**_mean(x), "b": 0.0}, r".*\['squares'\]. Received: \['squares', 'b'\]"),
        (lambda x: None, r"a dictionary of the losses.* Received: None"),
    ],
)
def test_what_are_no_losses_of_the_method_is_refused(setting, losses, message):
    model = _compiled(Squares(setting.teacher, setting.student(), losses))
    with pytest.raises(ValueError, match=f"^`compute_distillation_losses` must return {message}"):
        model.train_on_batch(setting.x, setting.y)


def test_a_compiled_loss_that_is_no_scalar_is_refused(setting):
    model = _compiled(Squares(setting.teacher, setting.student(), _mean), reduction=None)
    with pytest.raises(ValueError, match=r"^`loss` of `compile` must have a .* shape \(12,\)"):
        model.train_on_batch(setting.x, setting.y)


def test_a_layer_that_a_step_would_build_is_refused(setting):
    adapter = keras.Sequential([keras.layers.Dense(3)], name="adapter")
    model = _compiled(Squares(setting.teacher, setting.student(), _mean, adapter))
    model.run_eagerly = False
    before = model.student.get_weights()
    with pytest.raises(ValueError, match=r"'adapter' of Squares must be built .*layer\.build"):
        model.fit(setting.x, setting.y, verbose=0)
    for weight, expected in zip(model.student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_a_layer_that_a_step_would_make_is_refused(setting):
    def losses(squares):
        model.adapter = keras.layers.Dense(3, name="adapter")
        return _mean(model.adapter(squares))

    model = _compiled(Squares(setting.teacher, setting.student(), losses))
    with pytest.raises(ValueError, match=r"'adapter' of Squares must be built .*layer\.build"):
        model.train_on_batch(setting.x, setting.y)


class Doubles(keras.layers.Layer):
    """No weights, and not built before it is called."""

    def call(self, inputs):
        return 2 * inputs


@pytest.mark.parametrize("made", [Doubles, lambda: keras.layers.Dropout(0.1)])
def test_a_layer_without_weights_needs_no_build(setting, made):
    model = _compiled(Squares(setting.teacher, setting.student(), _mean, made()))
    model.fit(setting.x, setting.y, verbose=0)


def test_a_file_that_cannot_have_the_teacher_is_refused(setting, tmp_path):
    model = _compiled(KD(setting.teacher, setting.student()))
    checkpoints = [keras.callbacks.ModelCheckpoint(tmp_path / "whole.h5")]
    for save in (
        lambda: model.save(tmp_path / "whole.hdf5"),
        lambda: model.fit(setting.x, setting.y, verbose=0, callbacks=checkpoints),
    ):
        with pytest.raises(ValueError, match=r"^`filepath` must end in \.keras.*whole\.h"):
            save()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("distiller", [KD, SimKD])
def test_images_in_a_dictionary_reach_a_teacher_whose_input_has_another_name(distiller):
    def network(name, filters):
        images = keras.Input((8, 8, 3), name=name)
        x = keras.layers.Conv2D(filters, 3, activation="relu")({name: images}[name])
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model({name: images}, keras.layers.Dense(3)(x))

    x = np.random.default_rng(0).random((12, 8, 8, 3), np.float32)
    y = np.arange(12) % 3
    logs = []
    for images in (x, {"photo": x}):
        keras.utils.set_random_seed(0)
        model = distiller(network("image", 6), network("photo", 4))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        history = model.fit(images, y, batch_size=4, shuffle=False, verbose=0).history
        logs.append({**history, "evaluated": model.evaluate(images, y, verbose=0)})
    np.testing.assert_equal(logs[0], logs[1])


@pytest.mark.parametrize("method", [KD, CRD])
def test_symbolic_images_in_a_dictionary_are_the_images(setting, method):
    options = {"labels": setting.y, **LAYERS} if method is CRD else {}
    model = method(setting.teacher, setting.student(), **options)
    inputs = {"image": keras.Input((8, 8, 3))}
    if method is CRD:
        inputs["row"] = keras.Input((), dtype="int32")
    logits = model(inputs)
    assert logits.shape == (None, 3)
    assert model.compute_output_shape({name: x.shape for name, x in inputs.items()}) == (None, 3)
