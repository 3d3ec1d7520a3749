import base64

import keras
import numpy as np
from keras import ops

from letkd_keras.data_format import data_format_or_default
from letkd_keras.errors import check_packages

# Types of initializers that become weights. The others, such as shapes, stay in the graph.
_WEIGHT_TYPES = ("float16", "float32", "float64")


@keras.saving.register_keras_serializable("letkd_keras")
class ONNXGraph(keras.layers.Layer):
    """Runs an ONNX graph by ONNX Runtime, as a part of a teacher that was not made in Keras.

    The floating-point initializers of the graph are the weights of this layer, so that a `.keras`
    file of a model is complete. They are not trained, and no gradient passes through the layer. It
    reads its weights when they are set or loaded, or when it is called first. The graph runs
    outside of the compiled step. `letkd_keras.functional.open_onnx` makes a model of such layers.

    Args:
        graph: Serialized `onnx.ModelProto`, in base64, with one input and one output [B, ...]. The
            values of the initializers that are weights may be left out.
        output_shape: Shape of the output, in `data_format` and without the batch dimension.
        formats: Data formats of input and output in the graph, where they have four dimensions.
        batch_size: Number of images that the graph takes at once; `None` for any.
        data_format: Data format of input and output of the layer: `"channels_last"`,
            `"channels_first"` or `None` for the Keras setting.
        **kwargs: Keras' layer arguments.

    Call arguments:
        inputs: [B, ...].

    Returns:
        `[B, *output_shape]`, float32.

    Raises:
        ImportError: If onnx or ONNX Runtime is not installed, or JAX on a CPU is older than 0.6.1.
    """

    def __init__(self, graph, output_shape, formats, batch_size=None, data_format=None, **kwargs):
        # What the graph gives does not depend on a policy.
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.graph = graph
        self.output_shape_of_image = output_shape
        self.formats = formats
        self.batch_size = batch_size
        self.data_format = data_format_or_default(data_format)
        # XLA has callbacks on JAX only.
        self.supports_jit = keras.backend.backend() != "tensorflow"
        self._session = None
        # Not in `build`: the weights do not depend on the shape of the input.
        for number, initializer in enumerate(weight_initializers(self._proto())):
            self.add_weight(
                name=f"initializer_{number}",
                shape=tuple(initializer.dims),
                dtype=_type_name(initializer.data_type),
                initializer="zeros",
                trainable=False,
                autocast=False,
            )

    def call(self, inputs):
        self._start()
        inputs = ops.stop_gradient(inputs)
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            outputs = tf.numpy_function(self._run, [inputs], tf.float32)
            return tf.ensure_shape(outputs, (inputs.shape[0], *self.output_shape_of_image))
        import jax

        shape = (inputs.shape[0], *self.output_shape_of_image)
        return _called_back(self._run, jax.ShapeDtypeStruct(shape, "float32"), inputs)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.output_shape_of_image)

    def set_weights(self, weights):
        super().set_weights(weights)
        self._restart()

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self._restart()

    def get_config(self):
        return {
            **super().get_config(),
            "graph": self.graph,
            "output_shape": self.output_shape_of_image,
            "formats": self.formats,
            "batch_size": self.batch_size,
            "data_format": self.data_format,
        }

    def _proto(self):
        return _onnx().ModelProto.FromString(base64.b64decode(self.graph))

    def _restart(self):
        self._session = None
        # On JAX the values are not at hand in a compiled step.
        self._start()

    def _start(self):
        if self._session is not None:
            return
        proto = self._proto()
        values = _values(self.weights)
        for initializer, value in zip(weight_initializers(proto), values, strict=True):
            initializer.raw_data = value.tobytes()
        self._input_type = _type_name(proto.graph.input[0].type.tensor_type.elem_type)
        self._session = onnx_session(proto)

    def _run(self, inputs):
        """Outputs of NumPy arrays, in pieces of `batch_size`."""
        before, after = self.formats
        arrays = to_format(np.asarray(inputs), self.data_format, before).astype(self._input_type)
        size = self.batch_size or max(1, len(arrays))
        name = self._session.get_inputs()[0].name
        outputs = [np.zeros((0, *self.output_shape_of_image), "float32")]
        for start in range(0, len(arrays), size):
            images = arrays[start : start + size]
            padding = np.repeat(images[-1:], size - len(images), axis=0)
            (output,) = self._session.run(None, {name: np.concatenate([images, padding])})
            output = to_format(output[: len(images)], after, self.data_format)
            outputs.append(output.astype("float32"))
        return np.concatenate(outputs)


def _called_back(function, output, inputs):
    """The output of a function of NumPy arrays in a step of JAX.

    Args:
        function: Function of one array.
        output: Shape and type of what it returns, a `jax.ShapeDtypeStruct`.
        inputs: Its argument.

    Raises:
        ImportError: On a CPU, if JAX is older than 0.6.1.
    """
    import jax

    if jax.default_backend() != "cpu":
        return jax.pure_callback(function, output, inputs)
    # There a `pure_callback` copies its argument by the threads that run the step. With few of
    # them, all may wait for a copy that none is left to make.
    try:
        from jax.experimental.buffer_callback import buffer_callback
    except ImportError as error:
        raise ImportError(
            "A network of an ONNX file needs JAX 0.6.1 or later on a CPU. "
            f"Received: JAX {jax.__version__}"
        ) from error

    def write(_, buffer, images):
        np.asarray(buffer)[...] = function(np.asarray(images))

    return buffer_callback(write, output)(inputs)


def to_format(array, given, wanted):
    """A NumPy array of four dimensions in another data format; any other array as it is."""
    if array.ndim != 4 or given == wanted:
        return array
    return np.moveaxis(array, 1, -1) if wanted == "channels_last" else np.moveaxis(array, -1, 1)


def weight_initializers(proto):
    """The initializers of an `onnx.ModelProto` that become weights of an `ONNXGraph`, in order."""
    return [
        initializer
        for initializer in proto.graph.initializer
        if initializer.dims and _type_name(initializer.data_type) in _WEIGHT_TYPES
    ]


def onnx_session(proto):
    """ONNX Runtime for an `onnx.ModelProto`, on a GPU if it supports one here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway
    # Threads that wait for work would take processors from the training.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=providers)


def _onnx():
    check_packages(("onnx", "onnxruntime"), "graph", "an ONNX graph")
    import onnx

    return onnx


def _type_name(data_type):
    return np.dtype(_onnx().helper.tensor_dtype_to_np_dtype(data_type)).name


def _values(variables):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.init_scope():  # also while a function is traced
            return [keras.ops.convert_to_numpy(variable) for variable in variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]
