"""A classifier in an ONNX file as a functional model, to be a teacher."""

import base64
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from letkd_keras.errors import check_packages, did_you_mean, error_reason
from letkd_keras.functional.block_ends import cuts
from letkd_keras.functional.graph import flatten
from letkd_keras.functional.onnx_feature_maps import CONVOLUTIONS, feature_points
from letkd_keras.layers.onnx_graph import ONNXGraph, onnx_session, to_format, weight_initializers
from letkd_keras.ranges import positive_integer

log = logging.getLogger(__name__)

_TRANSPOSED_TO = {(0, 2, 3, 1): "channels_last", (0, 3, 1, 2): "channels_first"}


def open_onnx(
    path, *, image_size=None, penultimate_layer=None, intermediate_layer=None, argument="path"
):
    """Open a classifier in an ONNX file, such as one that PyTorch exported, as a teacher.

    The model can be a teacher of every method but SimKD, which needs the teacher's last `Dense`
    layer. It cannot be trained, so it cannot be a student. The layers in it are parts of the ONNX
    graph (`letkd_keras.layers.ONNXGraph`), which end where methods compare features:
    `intermediate`, `penultimate`, and `stage1`, `stage2` and so on. They are chosen as in
    `suggest_layers`, also in a transformer whose tokens are the patches of a convolution. Where
    they are not found, name them, or use methods on logits. The model computes in float32 and can
    be saved as a `.keras` file.

    Args:
        path: The file. It has one input, of images [B, C, H, W] or [B, H, W, C], and as its first
            output logits or softmax probabilities [B, classes].
        image_size: Height and width of the images. Needed only where the file leaves them open.
        penultimate_layer: Name of the tensor of the graph that has the last feature map. `None` to
            have it chosen.
        intermediate_layer: Name of the tensor at the end of the first block on the grid of the last
            feature map. `None` likewise.
        argument: Name of the path in errors.

    Returns:
        A functional `keras.Model` from images, in Keras' data format, to logits [B, classes].

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If onnx or ONNX Runtime is not installed.
        ValueError: If it is no such classifier, or a named tensor does not exist or is not one on
            which all later ones depend alone.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`{argument}` must be an .onnx file. Received: {str(path)!r}")
    if image_size is not None:
        positive_integer.check(image_size, "image_size")
    graph = _Graph(path, image_size, argument)
    named = {"penultimate": penultimate_layer, "intermediate": intermediate_layer}
    for level, tensor in named.items():
        graph.check_tensor(tensor, f"{level}_layer")
    if graph.batch_size is not None:
        log.warning(
            "%s takes %d image(s) at a time and runs once for each: export it with an open number "
            "of images (`dynamic_shapes` of `torch.onnx.export`), which is faster.",
            path,
            graph.batch_size,
        )
    points = feature_points(graph, named)
    start = graph.image
    image = x = keras.Input(graph.keras_shape(start), name="image")
    for names, tensor in [*points, (["logits"], graph.logits)]:
        if tensor != start:
            x = graph.layer(names.pop(0), start, tensor)(x)
            start = tensor
        for name in names:  # the other names of the same tensor
            x = keras.layers.Identity(name=name)(x)
    # TensorFlow takes no other characters, and not all of these as the first one.
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", f"onnx_{Path(path).stem}")
    return keras.Model(image, x, name=name)


def check_no_onnx(model, argument):
    """Refuse a model with parts of an ONNX file where it is trained or exported.

    Args:
        model: Functional `keras.Model`.
        argument: Name of the model in the error.

    Raises:
        ValueError: If it has such a layer.
    """
    layer = first_onnx_layer(model)
    if layer is not None:
        raise ValueError(
            f"`{argument}` must be a network of Keras layers; one of an ONNX file can only be "
            f"the teacher. Received: {model.name!r} with {layer.name!r}"
        )


def first_onnx_layer(model):
    """The first layer that is a part of an ONNX file, or `None`.

    Args:
        model: Functional `keras.Model`.
    """
    layers = flatten(model).layers
    return next((layer for layer in layers if isinstance(layer, ONNXGraph)), None)


@dataclass(frozen=True, eq=False)
class _Call:
    """A node of the graph that depends on the image, as `cuts` reads it."""

    node: object
    input_tensors: tuple
    output_tensors: tuple


class _Graph:
    """An ONNX graph, the calls in it that lead from the image to the logits, and their shapes."""

    def __init__(self, path, image_size, argument):
        self.path, self.argument = path, argument
        self.proto = _load(path, argument)
        graph = self.proto.graph
        constants = {each.name for each in graph.initializer}
        inputs = [each for each in graph.input if each.name not in constants]
        if len(inputs) != 1:
            raise self._error(f"one input. Received: {[each.name for each in inputs]}")
        self.image = inputs[0].name
        self.types = {self.image: inputs[0].type.tensor_type.elem_type}
        shape, declared_batch = self._image_shape(inputs[0], image_size)
        self.shapes = {self.image: shape}
        self.of_images = {self.image}  # the tensors whose first axis is that of the images
        self.logits = self._without_softmax(graph.output[0].name)
        # The number of images is the same everywhere: each part counts those of its own input.
        self.counts = [node for node in graph.node if _counts_images(node, self.image)]
        self.nodes = [node for node in graph.node if not _counts_images(node, self.image)]
        self.calls = self._calls(constants)
        images = self._noise(declared_batch or 1)
        logits = self._measure(images)
        # Many files declare one image, but take several.
        takes_any = self._takes_any_number(len(images), logits)
        self.batch_size = None if takes_any else len(images)
        if len(self.shapes[self.logits]) != 1:
            raise self._error(
                f"logits [B, classes] as its first output. Received: {self.shapes[self.logits]} "
                "for an image"
            )
        self.formats = self._formats()
        self.cuts = [
            call.output_tensors[0]
            for call, is_cut in zip(self.calls, cuts(self.calls), strict=True)
            if is_cut and call.output_tensors[0] in self.of_images
        ]

    # The graph

    def _error(self, text):
        return ValueError(
            f"`{self.argument}` must be an ONNX file of a classifier with {text} of "
            f"{str(self.path)!r}"
        )

    def _image_shape(self, image, image_size):
        # An open size may be written as -1.
        dims = [max(0, dim.dim_value) for dim in image.type.tensor_type.shape.dim]
        if len(dims) != 4:
            raise self._error(f"images [B, C, H, W] or [B, H, W, C] as input. Received: {dims}")
        batch, *shape = dims
        is_last = shape[0] not in (1, 3) and shape[-1] in (1, 3)
        self.image_format = "channels_last" if is_last else "channels_first"
        for axis in (0, 1) if is_last else (1, 2):
            if not shape[axis]:
                if image_size is None:
                    raise self._error(
                        "images of a fixed size: save a .keras file of "
                        "`letkd_keras.functional.open_onnx(path, image_size=...)`. "
                        f"Received: {shape} for the images"
                    )
                shape[axis] = image_size
        return tuple(shape), batch

    def _without_softmax(self, output):
        makers = {name: node for node in self.proto.graph.node for name in node.output}
        while output in makers and makers[output].op_type in ("Softmax", "LogSoftmax", "Identity"):
            output = makers[output].input[0]
        if output not in makers:
            raise self._error("an output that is computed from its input")
        if makers[output].op_type == "Sigmoid":
            raise self._error("logits or softmax probabilities as its first output, not a sigmoid")
        return output

    def _calls(self, constants):
        """The nodes between image and logits that depend on the image, in order."""
        nodes = _needed(self.nodes, [self.logits])
        dynamic = {self.image: self.image}
        calls = [_Call(None, (), (self.image,))]
        for node in nodes:
            inputs = tuple(dynamic[name] for name in _inputs(node) if name in dynamic)
            if inputs:
                outputs = tuple(name for name in node.output if name)
                # `cuts` compares identities, and each access gives new strings.
                dynamic |= dict(zip(outputs, outputs, strict=True))
                calls.append(_Call(node, inputs, outputs))
        return calls

    def _measure(self, images):
        """Find the shapes and types of all tensors, and return the logits of the first image."""
        import onnx

        names = [name for call in self.calls[1:] for name in call.output_tensors]
        try:
            outputs = self._run(names, images)
        except Exception as error:  # ONNX Runtime has errors of many classes
            raise ValueError(
                f"`{self.argument}` must be an ONNX file that ONNX Runtime can run. "
                f"Received: {str(self.path)!r} ({error_reason(error)})"
            ) from error
        for name, output in zip(names, outputs, strict=True):
            self.shapes[name] = output.shape[1:]
            if output.shape[:1] == images.shape[:1]:
                self.of_images.add(name)
            self.types[name] = onnx.helper.np_dtype_to_tensor_dtype(output.dtype)
        return outputs[names.index(self.logits)][0]

    def _takes_any_number(self, count, logits):
        """Whether the graph gives the same logits of the first image among more images."""
        try:
            (found,) = self._run([self.logits], self._noise(count + 2))
            return np.allclose(found[0], logits, rtol=1e-3, atol=1e-3)
        except Exception:  # as above, and shapes that differ
            return False

    def _noise(self, count):
        """Images of noise. The first ones are the same for every number of images."""
        import onnx

        noise = np.random.default_rng(0).uniform(0, 1, (count, *self.shapes[self.image]))
        return noise.astype(onnx.helper.tensor_dtype_to_np_dtype(self.types[self.image]))

    def _run(self, names, images):
        session = onnx_session(self._part(self.image, names))
        return session.run(names, {self.image: images})

    def _formats(self):
        """Data format of each tensor of four dimensions: the image's, until a node changes it."""
        formats = {self.image: self.image_format}
        for call in self.calls[1:]:
            found = formats[call.input_tensors[0]]
            if call.node.op_type in CONVOLUTIONS:
                found = "channels_first"  # by definition
            elif call.node.op_type == "Transpose":
                found = _TRANSPOSED_TO.get(_permutation(call.node), found)
            elif call.node.op_type == "Reshape":
                before, after = (
                    self.shapes[each] for each in (call.input_tensors[0], call.output_tensors[0])
                )
                found = _format_of_grid(before, after) or found
            formats |= dict.fromkeys(call.output_tensors, found)
        return formats

    def keras_shape(self, tensor):
        """Shape of a tensor for an image, in Keras' data format."""
        array = np.empty((1, *self.shapes[tensor]), bool)
        wanted = keras.config.image_data_format()
        return to_format(array, self.formats[tensor], wanted).shape[1:]

    def grid(self, tensor):
        """Height and width of a tensor that is a feature map, otherwise `None`."""
        shape = self.shapes[tensor]
        if len(shape) != 3:
            return None
        return shape[:2] if self.formats[tensor] == "channels_last" else shape[1:]

    def check_tensor(self, tensor, argument):
        """Refuse a name that a layer of the model cannot end at."""
        if tensor is None or tensor in self.cuts[1:]:
            return
        if tensor == self.image:
            reason = "which is the image"
        elif tensor in self.shapes and tensor not in self.of_images:
            reason = "the first axis of which is not that of the images"
        elif tensor in self.shapes:
            reason = "of which later ones depend on others, too"
        else:
            reason = f"which the graph does not have{did_you_mean(tensor, self.shapes)}"
        raise ValueError(
            f"`{argument}` must be the name of a tensor of the graph on which all later ones "
            f"depend alone. Received: {argument}={tensor!r}, {reason}"
        )

    # Parts of the graph

    def layer(self, name, start, end):
        """The part of the graph between two tensors."""
        import onnx

        proto = self._part(start, [end])
        values = []
        for initializer in weight_initializers(proto):
            values.append(onnx.numpy_helper.to_array(initializer))
            without_values = onnx.TensorProto(
                name=initializer.name, dims=initializer.dims, data_type=initializer.data_type
            )
            initializer.CopyFrom(without_values)
        layer = ONNXGraph(
            base64.b64encode(proto.SerializeToString()).decode(),
            self.keras_shape(end),
            (self.formats[start], self.formats[end]),
            self.batch_size,
            name=name,
        )
        layer.set_weights(values)
        return layer

    def _part(self, start, ends):
        """The part as an `onnx.ModelProto`."""
        import onnx

        graph = self.proto.graph
        nodes = _needed(self.nodes, ends, start)
        used = {name for node in nodes for name in _inputs(node)}
        images = onnx.helper.make_tensor_value_info(
            start, self.types[start], ["N", *self.shapes[start]]
        )
        part = onnx.ModelProto(
            ir_version=self.proto.ir_version,
            opset_import=self.proto.opset_import,
            functions=self.proto.functions,
        )
        part.graph.name = graph.name
        for node in self.counts:
            part.graph.node.add().CopyFrom(node)
            part.graph.node[-1].input[:] = [start]
        part.graph.node.extend(nodes)
        part.graph.input.append(images)
        part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
        part.graph.initializer.extend(each for each in graph.initializer if each.name in used)
        part.graph.sparse_initializer.extend(
            each for each in graph.sparse_initializer if each.values.name in used
        )
        return part


def _load(path, argument):
    check_packages(("onnx", "onnxruntime"), argument, str(path))
    import onnx

    try:
        proto = onnx.load(path)
        _write_erfc(proto.graph)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf and onnx have errors of many classes
        raise ValueError(
            f"`{argument}` must be a complete ONNX file. "
            f"Received: {str(path)!r} ({error_reason(error)})"
        ) from error
    # An exporter may write lines of its program there, with the folders of its computer.
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return proto


def _write_erfc(graph):
    """Write erfc, which Keras' GELU is made of, as 1 - erf.

    tf2onnx leaves erfc in its files, but ONNX has erf alone.
    """
    import onnx

    nodes = []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        (output,) = node.output
        erf, one, zero = (f"{output}/{part}" for part in ("erf", "one", "zero"))
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), zero))
        nodes += [
            onnx.helper.make_node("Erf", node.input, [erf]),
            onnx.helper.make_node("Pow", [erf, zero], [one]),  # in the precision of the graph
            onnx.helper.make_node("Sub", [one, erf], [output]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _inputs(node):
    """Names that a node reads, also in graphs inside of it."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for inner in attribute.g.node:
            names += _inputs(inner)
    return names


def _needed(nodes, ends, start=None):
    """The nodes that tensors are computed by, in order, beginning with a tensor."""
    wanted, needed = set(ends), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            needed.append(node)
            wanted.update(name for name in _inputs(node) if name != start)
    return needed[::-1]


def _counts_images(node, image):
    """Whether a node gives the number of images: of the shape of the image, the first entry."""
    entries = {each.name: each.i for each in node.attribute}
    return node.op_type == "Shape" and node.input[0] == image and entries == {"start": 0, "end": 1}


def _format_of_grid(before, after):
    """Data format of a feature map to which tokens are arranged; `None` for other shapes."""
    if len(after) == 3 and before == (after[0] * after[1], after[2]):
        return "channels_last"
    if len(after) == 3 and before == (after[0], after[1] * after[2]):
        return "channels_first"
    return None


def _permutation(node):
    """The axes of a transposition; none if it reverses them all."""
    return next((tuple(each.ints) for each in node.attribute if each.name == "perm"), ())
