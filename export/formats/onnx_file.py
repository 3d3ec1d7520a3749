import functools
from pathlib import Path

import keras
import numpy as np

from letkd_keras.export.formats.savedmodel import serving
from letkd_keras.functional.graph_copy import copy_of, copy_with
from letkd_keras.layers.channel_shuffle import ChannelShuffle, ChannelSplit
from letkd_keras.layers.grouped_convolution import GroupedConv2D


def write_onnx(student, path, options):
    """Write an ONNX file in float32 for any batch size. It maps `image` to the outputs.

    Args:
        student: Functional `keras.Model` without models inside. It returns logits.
        path: File to write.
        options: `ExportOptions`: `opset`, and `channels_first` for images [N, C, H, W].

    Raises:
        ImportError: If tf2onnx or onnx is not installed.
    """
    import onnx
    import tensorflow as tf
    import tf2onnx

    student = _with_native_groups(_with_channels_first_shuffles(student))
    image = tf.TensorSpec((None, *student.input_shape[1:]), "float32", "image")
    function = tf.function(serving(student, options))
    model, _ = tf2onnx.convert.from_function(
        function,
        [image],
        opset=options.opset,
        inputs_as_nchw=["image"] if options.channels_first else None,
        custom_op_handlers={"Erfc": (_write_erfc, []), "AddV2": (_write_sum, [])},
    )
    _fix_captures(model.graph, function.get_concrete_function(image))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    sides = model.graph.input[0].type.tensor_type.shape.dim[2 if options.channels_first else 1 :]
    for side, name in zip(sides, ("height", "width"), strict=False):
        if side.dim_param:  # a random name
            side.dim_param = name
    layout = model.metadata_props.add()
    layout.key, layout.value = "layout", "NCHW" if options.channels_first else "NHWC"
    onnx.checker.check_model(model, full_check=True)
    Path(path).write_bytes(model.SerializeToString())


def _write_erfc(graph, node, name, _):
    """Write erfc, which a GELU of TensorFlow is made of, as 1 - erf: ONNX has erf alone."""
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    graph.remove_node(name)
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    one = graph.make_const(f"{name}_one", np.float32(1))
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, outputs=node.output, name=name, shapes=[shape], dtypes=[dtype])


def _write_sum(graph, node, name, _):
    """Write a sum. A number in it becomes a vector of one number.

    With a number, such as the 3 of a hard swish, the converter removes no transposition at all.
    """
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    inputs, outputs = list(node.input), node.output
    for index, source in enumerate(node.inputs):
        if shape and source.is_const() and not source.get_tensor_value(as_list=False).shape:
            number = source.get_tensor_value(as_list=False).reshape(1)
            inputs[index] = graph.make_const(f"{name}_number{index}", number).output[0]
    graph.remove_node(name)
    graph.make_node("Add", inputs, outputs=outputs, name=name, shapes=[shape], dtypes=[dtype])


def _fix_captures(graph, function):
    """Make constants of the tensors that layers keep, such as the mean of a `Normalization`.

    The converter makes inputs of them.
    """
    import onnx

    captured = {inner.name: outer for outer, inner in function.graph.captures}
    for tensor in list(graph.input):
        if tensor.name in captured:
            values = captured[tensor.name].numpy()
            graph.initializer.append(onnx.numpy_helper.from_array(values, tensor.name))
            graph.input.remove(tensor)


def _with_native_groups(student):
    """Copy a student with `GroupedConv2D` in place of Keras' grouped convolutions.

    Keras compiles those with XLA, and ONNX has no calls of compiled functions.
    """

    def is_compiled(layer):
        return type(layer) is keras.layers.Conv2D and layer.groups > 1

    def copy(layer, **changes):
        return copy_of(layer, GroupedConv2D if is_compiled(layer) else None, **changes)

    if not any(map(is_compiled, student.layers)):
        return student
    return copy_with(student, copy_fn=copy)


def _with_channels_first_shuffles(student):
    """Copy a student with its channel shuffles and splits in channels-first form.

    ONNX convolutions are channels first. The converter puts transpositions around every other
    layer and removes adjacent ones. It cannot remove those next to a shuffle, whose own
    transposition has five dimensions, so that each shuffle and split would keep three of them.
    """

    def copy(layer, **changes):
        if _mixes_last_axis(layer):
            changes["data_format"] = "channels_first"
        return copy_of(layer, **changes)

    @functools.cache  # a layer may be called more than once
    def permute(axes, name):
        return keras.layers.Permute(axes, name=name)

    def call(layer, call_copy, *args, **kwargs):
        if not _mixes_last_axis(layer):
            return call_copy(*args, **kwargs)
        mixed = call_copy(permute((3, 1, 2), f"{layer.name}_first")(*args))
        return keras.tree.map_structure(permute((2, 3, 1), f"{layer.name}_last"), mixed)

    if not any(map(_mixes_last_axis, student.layers)):
        return student
    return copy_with(student, call, copy, dtype="float32")


def _mixes_last_axis(layer):
    mixes = isinstance(layer, ChannelShuffle | ChannelSplit)
    return mixes and layer.data_format == "channels_last"
