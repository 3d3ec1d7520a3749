"""Losses of the methods beside letKD, against their papers' formulas in NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from letkd_keras.distillers import AT, CRD, VID, SimKD
from letkd_keras.distillers.at import AttentionError
from letkd_keras.distillers.crd import NoiseContrastiveLoss
from letkd_keras.distillers.feature_maps import FeatureMeanSquaredError, on_one_grid
from letkd_keras.distillers.fitnet import regressor_of
from letkd_keras.distillers.memory_bank import MemoryBank, NegativeSampler
from letkd_keras.distillers.sp import SimilarityError
from letkd_keras.distillers.vid import GaussianNegativeLogLikelihood, VariationalRegressor
from letkd_keras.layers import adaptive_average_pool

LAST = {"student_layers": ("penultimate",), "teacher_layers": ("penultimate",)}


def _maps(seed, channels=5, size=4, images=3):
    return np.random.default_rng(seed).standard_normal((images, size, size, channels), "float32")


def test_attention_is_compared_after_normalization():
    a, b = _maps(0), _maps(1, channels=2)
    attention = [(f.astype("float64") ** 2).sum(-1).reshape(3, -1) for f in (a, b)]
    qa, qb = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in attention)
    assert float(AttentionError()(a, b)) == pytest.approx(((qa - qb) ** 2).mean(), rel=1e-5)
    assert float(AttentionError()(a, 7 * a)) == pytest.approx(0, abs=1e-12)
    # Exponents tell maps apart: |f| weighs the locations otherwise than f^2.
    with pytest.raises(ValueError, match="`power` must be a finite number of at least 1"):
        AttentionError(0.5)
    assert float(AttentionError(1)(a, b)) != pytest.approx(float(AttentionError()(a, b)), rel=1e-3)


def test_similarities_by_hand():
    """Two images whose activations are orthogonal in the one network and alike in the other."""
    orthogonal = np.array([[1.0, 0.0], [0.0, 3.0]], "float32")
    alike = np.array([[2.0, 2.0], [2.0, 2.0]], "float32")
    # Rows (1, 0), (0, 1) against (r, r), (r, r) with r = 1 / sqrt 2.
    r = math.sqrt(0.5)
    expected = (2 * (1 - r) ** 2 + 2 * r**2) / 4
    assert float(SimilarityError()(orthogonal, alike)) == pytest.approx(expected, rel=1e-5)


def test_similarities_do_not_see_the_basis_of_the_features():
    a = _maps(0)
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))[0].astype("float32")
    assert float(SimilarityError()(a, 3 * a @ rotation)) == pytest.approx(0, abs=1e-10)
    assert float(SimilarityError()(a, _maps(1))) > 1e-3


@pytest.mark.parametrize("loss", [AttentionError(), SimilarityError()])
def test_an_image_without_activations_has_a_finite_gradient_with_xla(loss):
    @tf.function(jit_compile=True)
    def gradient(y_true, y_pred):
        with tf.GradientTape() as tape:
            tape.watch(y_pred)
            value = loss(y_true, y_pred)
        return tape.gradient(value, y_pred)

    features = _maps(0)
    features[0] = 0
    found = gradient(tf.constant(_maps(1)), tf.constant(features)).numpy()
    assert np.isfinite(found).all() and found[1:].any()


def test_likelihood_is_that_of_a_gaussian():
    from scipy.stats import norm

    target, mean = _maps(0), _maps(1)
    variance = np.linspace(0.5, 2, 5).astype("float32")
    value = GaussianNegativeLogLikelihood()(target, (mean, variance))
    expected = -norm.logpdf(target, mean, np.sqrt(variance)).mean() - 0.5 * math.log(2 * math.pi)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_variances_start_at_five_and_belong_to_the_teachers_channels():
    regressor = VariationalRegressor(7)
    mean, variance = regressor(_maps(0))
    assert mean.shape == (3, 4, 4, 7)
    np.testing.assert_allclose(variance, np.full(7, 5.0), rtol=1e-6)
    # Three 1x1 convolutions without biases, and the variances.
    assert regressor.count_params() == 5 * 7 + 7 * 7 + 7 * 7 + 7


def test_the_mean_of_features_has_a_relu_between_its_convolutions():
    regressor = VariationalRegressor(7)
    mean, _ = regressor(_maps(0))
    first, second, third = (layer.kernel.numpy()[0, 0] for layer in regressor.mean.layers)
    hidden = np.maximum(np.maximum(_maps(0) @ first, 0) @ second, 0)
    np.testing.assert_allclose(mean, hidden @ third, rtol=1e-4, atol=1e-6)


def test_finer_maps_are_averaged():
    fine, coarse = _maps(0, size=4), _maps(1, size=2)
    averaged, same = on_one_grid(fine, coarse)
    expected = fine.reshape(3, 2, 2, 2, 2, 5).mean((2, 4))
    np.testing.assert_allclose(averaged, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same, coarse)


def test_grids_that_do_not_divide_meet_at_the_smaller_sizes():
    high, wide = _maps(0, size=7)[:, :, :4], _maps(1, size=7)[:, :5]
    high_averaged, wide_averaged = on_one_grid(high, wide)
    np.testing.assert_allclose(high_averaged, adaptive_average_pool(high, (5, 4)))
    np.testing.assert_allclose(wide_averaged, adaptive_average_pool(wide, (5, 4)))


@pytest.mark.parametrize("student_size, teacher_size", [(8, 8), (16, 8), (8, 16), (4, 16)])
def test_regressors_bridge_grids_of_other_sizes(student_size, teacher_size):
    regressor = regressor_of((student_size, student_size, 6), (teacher_size, teacher_size, 8))
    regressed = regressor(np.zeros((2, student_size, student_size, 6), "float32"))
    assert regressed.shape == (2, teacher_size, teacher_size, 8)


def test_where_grids_do_not_divide_the_regressor_keeps_that_of_the_student():
    regressor = regressor_of((7, 7, 6), (4, 4, 8))
    assert regressor(np.zeros((2, 7, 7, 6), "float32")).shape == (2, 7, 7, 8)
    assert regressor.get_layer("convolution").kernel_size == (1, 1)


def test_hint_is_the_mean_squared_error_of_the_regressed():
    a, b = _maps(0), _maps(1)
    error = FeatureMeanSquaredError()
    assert float(error(a, b)) == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    weights = np.array([0.0, 3.0, 0.0], "float32")
    assert float(error(a, b, weights)) == pytest.approx(((a - b) ** 2)[1].mean(), rel=1e-5)


def test_contrast_is_the_papers_in_probabilities():
    scores = 2 * np.random.default_rng(0).standard_normal((4, 9)).astype("float32") - 4
    e = np.exp(scores.astype("float64"))
    h = e / (e + 8 / 50)
    expected = -(np.log(h[:, 0]) + np.log(1 - h[:, 1:]).sum(1)).mean()
    loss = NoiseContrastiveLoss(50)
    assert float(loss(np.zeros(4), scores)) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(loss(np.zeros(4), 1e4 * scores))


def test_memories_start_with_length_one_on_average():
    keras.utils.set_random_seed(0)
    memories = MemoryBank(2000, 16).memories.numpy()
    assert np.mean(np.sum(memories**2, axis=1)) == pytest.approx(1, abs=0.03)
    assert abs(memories).max() <= np.sqrt(3 / 16)


def test_memories_of_the_rows_move_half_way_and_stay_of_length_one():
    bank = MemoryBank(6, 4)
    before = bank.memories.numpy().copy()
    new = np.eye(4, dtype="float32")[[1, 3]]
    bank.update(new, np.array([4, 0]))
    after = bank.memories.numpy()
    for row, embedding in zip((4, 0), new, strict=True):
        moved = 0.5 * before[row] + 0.5 * embedding
        np.testing.assert_allclose(after[row], moved / np.linalg.norm(moved), rtol=1e-5)
    np.testing.assert_array_equal(after[[1, 2, 3, 5]], before[[1, 2, 3, 5]])


def test_similarities_with_memories_are_normalized_by_the_first_batch():
    bank = MemoryBank(6, 4)
    embeddings = np.eye(4, dtype="float32")[:2]
    rows = np.array([[0, 3, 5], [1, 2, 2]])
    products = (
        np.stack([bank.memories.numpy()[r] @ e for r, e in zip(rows, embeddings, strict=True)])
        / 0.07
    )
    z = logsumexp(products) - math.log(products.size) + math.log(6)
    np.testing.assert_allclose(
        bank(embeddings, rows, temperature=0.07), products - z, rtol=1e-4, atol=1e-4
    )
    # The second batch is divided by the first one's Z.
    np.testing.assert_allclose(
        bank(embeddings[:1], rows[:1], temperature=0.07), products[:1] - z, rtol=1e-4, atol=1e-4
    )


def test_negatives_are_of_other_classes_and_all_of_them_as_likely():
    labels = np.array([2, 0, 1, 1, 0, 2, 2, 0, 2, 2])
    sampler = NegativeSampler(10, 3, 6000, seed=0)
    sampler.adapt(labels)
    drawn = np.asarray(sampler(np.array([0, 2])))
    for row, label in zip(drawn, (0, 2), strict=True):
        others = np.flatnonzero(labels != label)
        counts = np.bincount(row, minlength=10)
        assert set(np.flatnonzero(counts)) == set(others)
        expected = 6000 / len(others)
        assert abs(counts[others] - expected).max() < 5 * math.sqrt(expected)
    assert not np.array_equal(drawn, sampler(np.array([0, 2])))
    with pytest.raises(ValueError, match="`labels` must be of two classes at least"):
        sampler.adapt(np.ones(10, int))
    with pytest.raises(ValueError, match="`labels` must be 10 integers below 3"):
        sampler.adapt(np.arange(11) % 3)
    with pytest.raises(ValueError, match="`labels` must be 10 integers below 3"):
        sampler.adapt(np.arange(10))


def test_crd_contrasts_each_network_with_the_memories_of_the_other(setting):
    r = np.random.default_rng(0)
    model = CRD(
        setting.teacher,
        setting.student(),
        setting.y,
        dimension=4,
        negatives=5,
        momentum=0.0,
        **LAST,
    )
    rows, negatives = np.array([7, 2, 4]), r.integers(0, 12, (3, 5))
    model.sampler.call = lambda labels: negatives.astype("int32")
    banks = model.student_memories, model.teacher_memories
    memories = r.standard_normal((2, 12, 4)) / 8
    for bank, values in zip(banks, memories, strict=True):
        bank.memories.assign(values)
    features = _maps(0, channels=6), _maps(1, channels=8)
    outputs = [{"features": [f], "rows": rows, "labels": setting.y[rows]} for f in features]
    loss = model.compute_distillation_losses(*outputs)["crd"]

    embeddings, expected = [], 0
    for own, embedding, other in zip(
        features, (model.student_embedding, model.teacher_embedding), memories[::-1], strict=True
    ):
        embedded = own.mean((1, 2)) @ embedding.kernel.numpy() + embedding.bias.numpy()
        embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
        drawn = np.concatenate([rows[:, None], negatives], axis=1)
        e = np.exp(np.einsum("bd,bnd->bn", embedded, other[drawn]) / 0.07)
        e /= 12 * e.mean()
        h = e / (e + 5 / 12)
        expected -= np.mean(np.log(h[:, 0]) + np.log(1 - h[:, 1:]).sum(1))
        embeddings.append(embedded)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    for bank, embedded in zip(banks, embeddings, strict=True):
        np.testing.assert_allclose(bank.memories.numpy()[rows], embedded, rtol=1e-4, atol=1e-5)


def test_simkd_reuses_the_teachers_classifier_and_freezes_it(setting):
    model = SimKD(setting.teacher, setting.student(), **LAST)
    classifier = model.student.layers[-1]
    expected = setting.teacher.layers[-1].weights
    for weight, expected_weight in zip(classifier.weights, expected, strict=True):
        np.testing.assert_array_equal(weight, expected_weight)
    assert not classifier.trainable
    # With the teacher's own features projected, the student's logits are the teacher's.
    tail = keras.Model(model.student.get_layer("simkd_projected").output, model.student.outputs)
    features = keras.Model(setting.teacher.inputs, setting.teacher.get_layer("penultimate").output)
    np.testing.assert_allclose(
        tail(features(setting.x)), setting.teacher(setting.x, training=False), rtol=1e-4, atol=1e-5
    )
    widths = [model.student.get_layer(f"simkd_conv{n}").filters for n in (1, 2, 3)]
    assert widths == [4, 4, 8]


def _with_head(base, *layers):
    """A classifier of the features of `base`, made by transfer learning."""
    features = keras.Model(base.inputs, base.get_layer("penultimate").output)
    features.trainable = False
    inputs = keras.Input(base.input_shape[1:])
    x = features(keras.layers.RandomFlip()(inputs), training=False)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_simkd_leaves_out_what_does_nothing_at_inference(setting, dtype):
    dense = keras.layers.Dense(3, name="fc", dtype=dtype)
    teacher = _with_head(
        setting.teacher,
        keras.layers.Dropout(0.5),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dropout(0.5),
        dense,
        keras.layers.Activation("softmax", dtype="float32"),
    )
    model = SimKD(
        teacher, setting.student(), teacher_layers="penultimate", student_layers="penultimate"
    )
    classifier = model.student.get_layer("simkd_classifier")
    np.testing.assert_array_equal(classifier.kernel, dense.kernel)
    assert model.student.outputs[0].dtype == "float32"
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in model.student.layers)


def test_simkd_refuses_a_teacher_with_layers_after_its_classifier(setting):
    head = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4), keras.layers.Dense(3)
    with pytest.raises(ValueError, match=r"`teacher` must end in the Dense layer .* after 'dense"):
        SimKD(_with_head(setting.teacher, *head), setting.student(), **LAST)


@pytest.mark.parametrize("dropout", [[], [keras.layers.Dropout(0.5)]])
def test_simkd_refuses_features_that_others_read_too(setting, dropout):
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(6, 3, name="features")(inputs)
    x = features
    for layer in (*dropout, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)):
        x = layer(x)
    x = keras.layers.Add()([x, keras.layers.Dense(3)(keras.layers.Flatten()(features))])
    with pytest.raises(ValueError, match="only global average pooling and a Dense layer after it"):
        SimKD(
            keras.Model(inputs, x),
            setting.student(),
            teacher_layers="features",
            student_layers="penultimate",
        )


def test_simkd_keeps_a_student_that_has_the_projector(setting):
    first = SimKD(setting.teacher, setting.student(), **LAST)
    again = SimKD(setting.teacher, first.student)
    assert again.student is first.student
    assert again.teacher_layers == ("penultimate",)
    outputs = [
        model.compute_distillation_losses(
            model.compute_student_outputs(setting.x),
            model.compute_teacher_outputs(setting.x, setting.y),
        )["simkd"]
        for model in (first, again)
    ]
    assert float(outputs[0]) == pytest.approx(float(outputs[1]), rel=1e-5)
    with pytest.raises(ValueError, match="`teacher` is needed"):
        SimKD(None, first.student)


@pytest.mark.parametrize("factor", [0, -2, 1.5, True])
def test_simkd_refuses_a_factor_that_divides_nothing(setting, factor):
    with pytest.raises(ValueError, match=r"`factor` must be an integer of at least 1.*factor="):
        SimKD(setting.teacher, setting.student(), factor=factor, **LAST)


def test_simkd_refuses_a_factor_that_leaves_no_channels(setting):
    with pytest.raises(ValueError, match=r"`factor` must be at most .* 8 channels.*factor=9"):
        SimKD(setting.teacher, setting.student(), factor=9, **LAST)
    student = SimKD(setting.teacher, setting.student(name="own"), factor=8, **LAST).student
    kernels = [student.get_layer(f"simkd_conv{number}").kernel.shape for number in (1, 2, 3)]
    assert kernels == [(1, 1, 6, 1), (3, 3, 1, 1), (1, 1, 1, 8)]
    assert student.name == "own"


def test_simkd_keeps_a_projector_in_a_model_inside(setting):
    inner = SimKD(setting.teacher, setting.student(), **LAST).student
    inputs = keras.Input(inner.input_shape[1:])
    outer = keras.Model(inputs, inner(keras.layers.Rescaling(1.0)(inputs)))
    model = SimKD(setting.teacher, outer)
    assert model.student.get_layer("simkd_conv1") is inner.get_layer("simkd_conv1")


def test_simkd_refuses_a_classifier_it_cannot_reuse(setting):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="penultimate")(inputs)
    x = keras.layers.Dense(3)(keras.layers.Flatten(name="flat")(x))
    with pytest.raises(ValueError, match=r"only global average pooling.*'flat'"):
        SimKD(keras.Model(inputs, x), setting.student(), **LAST)


def test_every_layer_counts(setting):
    layers = {
        "student_layers": ("intermediate", "penultimate"),
        "teacher_layers": ("bn1", "penultimate"),
    }
    for method, name in ((AT, "at"), (VID, "vid")):
        both = method(setting.teacher, setting.student(), **layers)
        student_outputs = both.compute_student_outputs(setting.x)
        teacher_outputs = both.compute_teacher_outputs(setting.x, setting.y)
        losses = both.compute_distillation_losses
        total = float(losses(student_outputs, teacher_outputs)[name])
        first, second = student_outputs["features"]
        changed = {**student_outputs, "features": [first + 1.0, second]}
        assert float(losses(changed, teacher_outputs)[name]) != pytest.approx(total)
