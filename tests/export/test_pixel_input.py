import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from letkd_keras.export import ExportOptions, export_bundle, export_student
from letkd_keras.export import job as jobs
from letkd_keras.export.artifact_verification import verify_artifacts
from letkd_keras.export.images_and_labels import images_for, pixels_for_classify
from letkd_keras.export.input_scaling import is_augmentation, takes_pixels, with_pixel_input
from letkd_keras.export.job import prepare_job
from letkd_keras.export.new_process import reload_outputs

_RNG = np.random.default_rng(3)
_MEAN, _STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def pixels():
    return _RNG.integers(0, 256, (12, 16, 16, 3), "uint8")


@pytest.fixture(scope="module")
def expected(student, pixels):
    """Logits of the small student."""
    normalized = (pixels / 255 - np.array(_MEAN)) / np.array(_STD)
    return np.asarray(student(normalized.astype("float32")))


def _normalized(pixels):
    return ((pixels / 255 - np.array(_MEAN)) / np.array(_STD)).astype("float32")


def _softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


@pytest.mark.parametrize("given", ["uint8", "normalized"])
@pytest.mark.parametrize("format", ["savedmodel", "tflite", "onnx"])
def test_artifact_takes_pixels(student, pixels, expected, tmp_path, format, given):
    images = pixels if given == "uint8" else _normalized(pixels)
    result = export_student(student, tmp_path, format, images=images, mean=_MEAN, std=_STD)
    assert result.max_difference < 1e-4
    # The export has loaded it in a new process already, which takes seconds.
    if format == "savedmodel":
        endpoint = tf.saved_model.load(result.path).signatures["serving_default"]
        logits = endpoint(image=tf.constant(pixels.astype("float32")))["logits"]
    else:
        logits = reload_outputs(format, result.path, pixels.astype("float32"))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_normalized_images_on_request(student, pixels, expected, tmp_path):
    given = {"mean": _MEAN, "std": _STD, "input": "normalized"}
    result = export_student(student, tmp_path, "tflite", images=pixels, **given)
    logits = reload_outputs("tflite", result.path, _normalized(pixels))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_int8_takes_the_bytes_of_a_picture(student, pixels, expected, tmp_path):
    result = export_student(
        student,
        tmp_path,
        "tflite-int8",
        images=pixels,
        calibration=pixels // 2 + 40,  # neither black nor white
        mean=_MEAN,
        std=_STD,
        integer_io=True,
        min_agreement=0,
    )
    interpreter = Interpreter(str(result.path))
    interpreter.allocate_tensors()
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["dtype"], logits["dtype"]) == (np.uint8, np.int8)
    assert image["quantization"] == (pytest.approx(1), 0)
    floats = [t["name"] for t in interpreter.get_tensor_details() if t["dtype"] == np.float32]
    assert floats == []
    assert result.max_difference < 0.25 * np.abs(expected).max()


@pytest.mark.parametrize("format", ["savedmodel", "tflite", "onnx", "tflite-int8"])
def test_probabilities(student, pixels, expected, tmp_path, format):
    given = {"mean": _MEAN, "std": _STD, "calibration": pixels, "min_agreement": 0}
    result = export_student(
        student, tmp_path, format, images=pixels, output="probabilities", **given
    )
    runtime = format.split("-")[0]
    outputs = reload_outputs(runtime, result.path, pixels.astype("float32"))
    limit = 0.2 if format == "tflite-int8" else 1e-4
    np.testing.assert_allclose(outputs, _softmax(expected), atol=limit)
    if runtime == "tflite":
        runner = Interpreter(str(result.path)).get_signature_runner("serving_default")
        assert list(runner.get_output_details()) == ["probabilities"]


def test_verify_reads_inputs_and_outputs_from_the_card(student, pixels, tmp_path):
    given = {"mean": _MEAN, "std": _STD, "output": "probabilities"}
    export_bundle(student, tmp_path, ("savedmodel", "tflite"), images=pixels, **given)
    for images in (pixels, _normalized(pixels), None):
        results = verify_artifacts(tmp_path, student, images=images)
        assert set(results) == {"savedmodel", "tflite"}
        for result in results.values():
            assert result.agreement == 1
            assert result.max_difference < 1e-4


def test_resizing_may_exceed_the_range_of_pixels_a_little():
    options = ExportOptions(input="pixels", mean=(0.5,), std=(1 / 255,))
    images = np.array([-0.5, 255.5], "float32").reshape(1, 1, 2, 1) - 127.5
    np.testing.assert_array_equal(options.artifact_images(images).ravel(), [0, 255])
    # Those of a camera are integers.
    between = np.array([100.4, 100.6], "float32").reshape(1, 1, 2, 1) - 127.5
    np.testing.assert_array_equal(options.artifact_images(between).ravel(), [100, 101])
    with pytest.raises(ValueError, match=r"with pixels from -1\.78 to 256\.8"):
        options.artifact_images(1.01 * images)


def test_normalization_in_front_is_exact(student, pixels, expected):
    model = with_pixel_input(student, _MEAN, _STD)
    np.testing.assert_allclose(model(pixels.astype("float32")), expected, atol=1e-4)
    assert not model.get_layer("pixel_scaling").trainable
    assert with_pixel_input(student, (0.0,) * 3, (1 / 255,) * 3) is student
    assert with_pixel_input(student, (0.5,) * 3, (1 / 255,) * 3) is not student


def _with_rescaling(scale, *augmentations):
    return _beginning_with(*augmentations, keras.layers.Rescaling(scale, offset=-1))


def _beginning_with(*layers):
    inputs = x = keras.Input((8, 8, 3))
    for layer in layers:
        x = layer(x)
    x = keras.layers.Conv2D(4, 3)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


def test_a_student_that_rescales_pixels_is_left_as_it_is(tmp_path):
    student = _with_rescaling(1 / 127.5)
    assert takes_pixels(student)
    assert not takes_pixels(_with_rescaling(2.0))
    assert not takes_pixels(_with_rescaling(-2.0))
    assert takes_pixels(_with_rescaling(1 / 255, keras.layers.Resizing(6, 6)))
    of_bytes = keras.Input((8, 8, 3), dtype="uint8")
    assert takes_pixels(keras.Model(of_bytes, student(of_bytes)))
    pixels = _RNG.integers(0, 256, (4, 8, 8, 3), "uint8")
    result = export_student(student, tmp_path, images=pixels)
    assert result.parameters == student.count_params()
    endpoint = tf.saved_model.load(result.path).signatures["serving_default"]
    logits = endpoint(image=tf.constant(pixels.astype("float32")))["logits"]
    np.testing.assert_allclose(logits, student(pixels.astype("float32")), atol=1e-4)


def test_pixels_that_would_be_normalized_twice_are_warned_of(student, caplog):
    rescaling = _with_rescaling(1 / 127.5)
    prepare_job(rescaling, fold=False)
    prepare_job(rescaling, fold=False, mean=0, std=1 / 255)
    prepare_job(student, fold=False, mean=_MEAN, std=_STD)
    assert "rescales" not in caplog.text
    prepare_job(rescaling, fold=False, mean=_MEAN, std=_STD)
    assert "rescales pixels itself, and its files normalize them with `mean`" in caplog.text


def test_without_images_a_job_has_those_of_the_calibration(student, pixels, monkeypatch):
    folded_on = []

    def fold(model, images):
        folded_on.append(images)
        return model

    monkeypatch.setattr(jobs, "fold_model", fold)
    job = prepare_job(student, calibration=pixels, mean=_MEAN, std=_STD)
    assert job.real
    assert job.images is job.options.calibration
    assert job.images.dtype == "float32"
    np.testing.assert_array_equal(job.images, pixels)
    np.testing.assert_allclose(folded_on[0], _normalized(pixels), atol=1e-5)


def test_noise_is_of_pixels_where_files_take_pixels(student):
    noise = images_for(student, options=ExportOptions(input="pixels"))
    np.testing.assert_array_equal(noise, np.rint(noise))
    assert (noise.min(), noise.max()) == (0, 255)
    assert images_for(student, options=ExportOptions(input="normalized")).min() < 0


def test_there_is_no_noise_of_an_open_size():
    student = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    with pytest.raises(ValueError, match=r"^`images` must be given \(--data\) for a model whose"):
        images_for(student)


def test_a_channels_first_layer_in_a_student_of_images_three_pixels_high():
    inputs = keras.Input((3, 8, 3))
    x = keras.layers.Permute((3, 1, 2))(keras.layers.Conv2D(4, 1)(inputs))
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    prepare_job(keras.Model(inputs, x), fold=False)


def test_images_for_classify_have_the_size_of_the_images():
    assert pixels_for_classify(np.zeros((2, 96, 80, 3))).shape == (8, 96, 80, 3)


def test_augmentations_before_the_rescaling_do_not_count(tmp_path):
    augmentations = keras.layers.RandomFlip(), keras.layers.RandomContrast(0.2)
    assert takes_pixels(_with_rescaling(1 / 127.5, keras.layers.RandAugment()))
    student = _with_rescaling(1 / 127.5, *augmentations)
    assert takes_pixels(student)
    assert takes_pixels(_with_rescaling(1 / 127.5, keras.Sequential(augmentations)))
    assert not takes_pixels(_with_rescaling(2.0, *augmentations))
    assert not takes_pixels(_with_rescaling(1 / 255, keras.layers.Conv2D(3, 1)))
    pixels = _RNG.integers(0, 256, (4, 8, 8, 3), "uint8")
    result = export_student(student, tmp_path, "tflite", images=pixels)
    pixels = pixels.astype("float32")
    logits = reload_outputs("tflite", result.path, pixels)
    np.testing.assert_allclose(logits, student(pixels, training=False), atol=1e-4)


def test_a_student_that_normalizes_pixels_is_left_as_it_is(tmp_path):
    pixels = _RNG.integers(0, 256, (4, 8, 8, 3), "uint8")
    adapted = keras.layers.Normalization()
    adapted.adapt(pixels.astype("float32"))
    student = _beginning_with(keras.layers.RandomFlip(), adapted)
    result = export_student(student, tmp_path, "tflite", images=pixels)
    pixels = pixels.astype("float32")
    logits = reload_outputs("tflite", result.path, pixels)
    np.testing.assert_allclose(logits, student(pixels, training=False), atol=1e-4)
    for mean, std, expected in ((33, 79, True), (5, 35, True), (0.5, 0.2, False), (4.9, 6, False)):
        layer = keras.layers.Normalization(mean=[mean] * 3, variance=[std**2] * 3)
        assert takes_pixels(_beginning_with(layer)) == expected
    inverse = keras.layers.Normalization(mean=[123] * 3, variance=[58**2] * 3, invert=True)
    assert not takes_pixels(_beginning_with(inverse))


def test_pixels_are_taken_where_all_first_layers_scale_them():
    def network(*scales):
        inputs = keras.Input((8, 8, 3))
        branches = [keras.layers.Rescaling(scale)(inputs) for scale in scales]
        x = keras.layers.Conv2D(4, 3)(keras.layers.Concatenate()(branches))
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    assert takes_pixels(network(1 / 255, 1 / 127.5))
    assert not takes_pixels(network(1 / 255, 1.0))
    negative = keras.layers.Normalization(mean=[-123] * 3, variance=[1] * 3)
    assert takes_pixels(_beginning_with(negative))
    inputs = keras.Input((8, 8, 3))
    assert not takes_pixels(keras.Model(inputs, keras.layers.RandomFlip()(inputs)))


def test_layers_of_ones_own_are_no_augmentations_of_keras():
    class RandomNoise(keras.layers.Layer):
        pass

    assert not is_augmentation(RandomNoise())
    assert is_augmentation(keras.layers.RandomFlip())
    # At inference it is a crop of the center.
    assert not is_augmentation(keras.layers.RandomCrop(4, 4))


@pytest.mark.parametrize("argument", ["images", "calibration"])
def test_bytes_without_a_normalization_are_refused(student, pixels, tmp_path, argument):
    match = f"`{argument}` must be normalized as for the student, or `mean` and `std` must be given"
    match += ", 0 and 1/255 for a student that takes pixels from 0 to 255. Received: "
    with pytest.raises(ValueError, match=f"{match}{argument} of type uint8"):
        export_bundle(
            student, tmp_path, ("tflite-int8",), **{"calibration": pixels / 255, argument: pixels}
        )
    assert list(tmp_path.iterdir()) == []


def test_verify_refuses_bytes_without_a_normalization(student, pixels, tmp_path):
    export_bundle(student, tmp_path, ("tflite",))
    with pytest.raises(ValueError, match="`images` must be normalized as for the student, or"):
        verify_artifacts(tmp_path, student, images=pixels)


def test_grayscale_images(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    student = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    pixels = _RNG.integers(0, 256, (4, 8, 8, 1), "uint8")
    result = export_student(student, tmp_path, "tflite", images=pixels, mean=(0.3,), std=(0.5,))
    logits = reload_outputs("tflite", result.path, pixels.astype("float32"))
    np.testing.assert_allclose(logits, student((pixels / 255 - 0.3) / 0.5), atol=1e-5)


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        (keras.applications.mobilenet_v2.preprocess_input, True),  # x / 127.5 - 1
        (keras.applications.resnet50.preprocess_input, True),  # means are subtracted, BGR
        (keras.applications.densenet.preprocess_input, True),  # x / 255, then mean and std
        (keras.applications.mobilenet_v3.preprocess_input, False),  # nothing
        (lambda x: x * (1 / 255), True),
        (lambda x: x / 2 - 1, False),
        (lambda x: x + x, False),
        (lambda x: x + 123.0, True),
        (lambda x: x - np.array([103.9, -116.8, 123.7], "float32"), True),
        (lambda x: x + -116.8, True),
        (lambda x: x / np.array([1.0, 255.0, 255.0], "float32"), False),
    ],
)
def test_arithmetic_with_pixels_is_recognized(preprocess, expected):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3)(preprocess(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    assert takes_pixels(model) is expected


def test_pixels_that_a_student_scales_in_a_way_of_its_own_are_given_as_they_are(pixels, tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 16)(inputs)  # not known as a scale of pixels
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 16)(x))
    own = keras.Model(inputs, keras.layers.Dense(3)(x))
    with pytest.raises(ValueError, match="0 and 1/255 for a student that takes pixels"):
        export_student(own, tmp_path, "tflite", images=pixels)
    path = export_student(own, tmp_path, "tflite", images=pixels, mean=0, std=1 / 255).path
    logits = reload_outputs("tflite", path, pixels.astype("float32"))
    np.testing.assert_allclose(logits, own(pixels.astype("float32")), atol=1e-3)
