import keras
import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras.optimizers import TorchSGD

STEPS = 6
DROP = 3  # steps before the rate drops


def _gradients(shape=(3, 2)):
    return np.random.default_rng(0).standard_normal((STEPS, *shape)).astype("float32")


def _start(shape=(3, 2)):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def _rate(step):
    return 0.1 if step < DROP else 0.01


def _schedule():
    return keras.optimizers.schedules.PiecewiseConstantDecay([DROP - 1], [0.1, 0.01])


def _weights_after_each_step(momentum, nesterov, weight_decay, learning_rate=None, **kwargs):
    """Weights after each step."""
    variable = keras.Variable(_start(), name="w")
    optimizer = TorchSGD(
        _schedule() if learning_rate is None else learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        **kwargs,
    )
    path = []
    for gradient in _gradients():
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        path.append(keras.ops.convert_to_numpy(variable).copy())
    return np.stack(path)


def _by_formula(momentum, nesterov, weight_decay):
    w, v, path = _start().astype("float64"), 0, []
    for step, g in enumerate(_gradients().astype("float64")):
        g = g + weight_decay * w
        v = momentum * v + g
        w = w - _rate(step) * ((g + momentum * v) if nesterov else v)
        path.append(w)
    return np.stack(path)


SETTINGS = [
    (0.9, True, 5e-4),
    (0.9, True, 0.5),
    (0.9, False, 0.1),
    (0.0, False, 0.1),
    (0.5, True, 0),
]


@pytest.mark.parametrize(("momentum", "nesterov", "weight_decay"), SETTINGS)
def test_every_step_follows_the_formulas_through_a_drop_of_the_rate(
    momentum, nesterov, weight_decay
):
    actual = _weights_after_each_step(momentum, nesterov, weight_decay)
    np.testing.assert_allclose(actual, _by_formula(momentum, nesterov, weight_decay), rtol=1e-5)


@pytest.mark.parametrize(("momentum", "nesterov", "weight_decay"), SETTINGS)
def test_every_step_equals_torchs_through_a_drop_of_the_rate(momentum, nesterov, weight_decay):
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.tensor(_start()))
    optimizer = torch.optim.SGD(
        [parameter], 0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
    )
    path = []
    for step, gradient in enumerate(_gradients()):
        optimizer.param_groups[0]["lr"] = _rate(step)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    actual = _weights_after_each_step(momentum, nesterov, weight_decay)
    np.testing.assert_allclose(actual, np.stack(path), rtol=1e-5, atol=1e-7)


def test_a_drop_acts_at_once_unlike_keras():
    variable, keras_variable = keras.Variable(np.array([0.0])), keras.Variable(np.array([0.0]))
    optimizers = [TorchSGD(1.0, momentum=0.9), keras.optimizers.SGD(1.0, momentum=0.9)]
    sizes = []
    for rate in (1.0, 1e-6):
        for optimizer, w in zip(optimizers, (variable, keras_variable), strict=True):
            optimizer.learning_rate = rate
            before = float(w[0])
            optimizer.apply([keras.ops.convert_to_tensor([1.0])], [w])
            sizes.append(abs(float(w[0]) - before))
    assert sizes[2] == pytest.approx(1.9e-6, rel=1e-3)
    assert sizes[3] > 0.5


def test_every_trainable_variable_decays_and_no_other():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(2, 3)(inputs)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    for weight in model.weights:
        weight.assign(2 * np.ones(weight.shape))
    zeros = [keras.ops.zeros(w.shape) for w in model.trainable_weights]
    TorchSGD(0.1, weight_decay=0.5).apply(zeros, model.trainable_weights)
    for weight in model.trainable_weights:
        np.testing.assert_allclose(weight, np.full(weight.shape, 2 - 0.1 * 0.5 * 2), rtol=1e-6)
    for weight in model.non_trainable_weights:
        np.testing.assert_array_equal(weight, np.full(weight.shape, 2))


def test_variables_can_be_excluded_from_the_decay():
    kernel, bias = (keras.Variable(np.ones(2), name=name) for name in ("kernel", "bias"))
    optimizer = TorchSGD(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.apply([keras.ops.zeros(2)] * 2, [kernel, bias])
    np.testing.assert_allclose(kernel, [0.95, 0.95], rtol=1e-6)
    np.testing.assert_array_equal(bias, [1, 1])


def test_the_rate_of_some_variables_has_a_factor():
    layers = [keras.layers.Dense(2, name=name) for name in ("kd_a", "kd_b", "head")]
    for layer in layers:
        layer.build((None, 3))
    alone = []
    for layer, rate in zip(layers, (0.4, 0.2, 0.1), strict=True):
        variable = keras.Variable(layer.kernel)
        optimizer = TorchSGD(rate, momentum=0.9, nesterov=True, weight_decay=0.5)
        for gradient in _gradients(variable.shape):
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        alone.append(keras.ops.convert_to_numpy(variable))
    factors = {"kd_": 2.0, "kd_a": 2.0}
    optimizer = TorchSGD(
        0.1, momentum=0.9, nesterov=True, weight_decay=0.5, learning_rate_factors=factors
    )
    kernels = [layer.kernel for layer in layers]
    for gradient in _gradients(kernels[0].shape):
        optimizer.apply([keras.ops.convert_to_tensor(gradient)] * 3, kernels)
    for kernel, expected in zip(kernels, alone, strict=True):
        np.testing.assert_allclose(kernel, expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [0, -1, float("nan")])
def test_a_wrong_factor_is_refused(factor):
    with pytest.raises(ValueError, match=r"`learning_rate_factors\['kd_'\]` must be"):
        TorchSGD(0.1, learning_rate_factors={"kd_": factor})


@pytest.mark.parametrize("factors", [["kd_"], "kd_", {3: 2.0}])
def test_factors_of_another_form_are_refused(factors):
    with pytest.raises(ValueError, match="`learning_rate_factors` must be a dictionary from parts"):
        TorchSGD(0.1, learning_rate_factors=factors)


def test_only_the_gradient_is_clipped():
    variable = keras.Variable(np.array([10.0]))
    TorchSGD(0.1, weight_decay=0.5, clipvalue=1.0).apply(
        [keras.ops.convert_to_tensor([7.0])], [variable]
    )
    np.testing.assert_allclose(variable, [10 - 0.1 * (1 + 5)], rtol=1e-6)


def test_config_round_trip():
    optimizer = TorchSGD(
        _schedule(),
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        clipnorm=2.0,
        learning_rate_factors={"kd_": 3.0},
    )
    again = TorchSGD.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert has_registered_name(again)
    assert again.coupled_weight_decay == 5e-4
    assert again.weight_decay is None  # Keras' decoupled one
    serialised = keras.optimizers.serialize(optimizer)
    assert type(keras.optimizers.deserialize(serialised)) is TorchSGD


def test_a_reloaded_model_continues_as_without_interruption(tmp_path):
    def fit(model, epochs):
        model.fit(x, y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)

    r = np.random.default_rng(0)
    x, y = r.standard_normal((8, 3)).astype("float32"), r.standard_normal((8, 1)).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(TorchSGD(_schedule(), momentum=0.9, nesterov=True, weight_decay=0.01), "mse")
    fit(model, 1)
    model.save(tmp_path / "model.keras")
    fit(model, 2)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is TorchSGD
    fit(loaded, 2)
    for before, after in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1e-4}, "`weight_decay` must be a finite number of at least 0.*-0.0001"),
        ({"weight_decay": float("nan")}, "`weight_decay` must be .*nan"),
        ({"momentum": 1.5}, "`momentum` must be"),
        ({"momentum": float("nan")}, "`momentum` must be a finite number of at least 0.*nan"),
        ({"learning_rate": 0}, "`learning_rate` must be a finite number greater than 0.*=0"),
        ({"learning_rate": -0.1}, "`learning_rate` must be .*-0.1"),
        ({"learning_rate": float("inf")}, "`learning_rate` must be .*inf"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be .*nan"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TorchSGD(**arguments)


@pytest.mark.parametrize("momentum", [0, 1, np.float32(0.5)])
def test_momentum_may_be_any_kind_of_number(momentum):
    assert TorchSGD(0.1, momentum=momentum).get_config()["momentum"] == float(momentum)
