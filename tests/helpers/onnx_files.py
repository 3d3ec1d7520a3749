"""ONNX files as PyTorch writes them: channels first, and batch normalizations as nodes."""

import keras
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def residual_network(path, batch="N", head="Gemm", ending="Softmax", size=8):
    """Write a network of two stages with two residual blocks each, and return its file.

    Names of tensors: `stem`, `a1`, `a2` (grid of `size`), `b1`, `b2` (half of it), `logits`.
    """
    rng = np.random.default_rng(0)
    nodes, arrays = [], {}

    def weight(name, *shape):
        arrays[name] = rng.normal(0, 0.3, shape)
        return name

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolution(x, before, after, output, kernel=3, stride=1):
        pad = kernel // 2
        y = node(
            "Conv",
            [x, weight(f"{output}.weight", after, before, kernel, kernel)],
            f"{output}.conv",
            kernel_shape=[kernel] * 2,
            pads=[pad] * 4,
            strides=[stride] * 2,
        )
        arrays[f"{output}.var"] = rng.uniform(0.5, 1.5, after)
        others = [weight(f"{output}.{part}", after) for part in ("gamma", "beta", "mean")]
        return node("BatchNormalization", [y, *others, f"{output}.var"], output)

    def block(x, before, after, output, stride):
        y = node(
            "Relu", [convolution(x, before, after, f"{output}.1", stride=stride)], f"{output}.r"
        )
        y = convolution(y, after, after, f"{output}.2")
        if stride > 1:
            x = convolution(x, before, after, f"{output}.shortcut", 1, stride)
        return node("Relu", [node("Add", [y, x], f"{output}.sum")], output)

    x = node("Relu", [convolution("image", 3, 4, "stem.bn")], "stem")
    x = block(x, 4, 4, "a1", 1)
    x = block(x, 4, 4, "a2", 1)
    x = block(x, 4, 6, "b1", 2)
    x = block(x, 6, 6, "b2", 1)
    if head == "SqueezeNet":
        x = node("Conv", [x, weight("fc", 5, 6, 1, 1)], "scores")
        x = node("GlobalAveragePool", [x], "pooled")
        node("Flatten", [x], "logits")
    else:
        if head == "Convolution":  # as in VGG networks of timm
            x = node("Conv", [x, weight("wide", 6, 6, size // 2, size // 2)], "one")
            x = node("Relu", [x], "one.r")
        if head == "Tokens":  # a block of a transformer
            arrays["tokens.shape"] = np.array([0, 6, -1])
            x = node("Reshape", [x, "tokens.shape"], "tokens")
            y = node("MatMul", [weight("mixer", 6, 6), x], "mixed")
            x = node("Add", [x, y], "tokens.sum")
            x = node("ReduceMean", [x], "pooled", axes=[2], keepdims=1)
        elif head == "Mean":  # of a flattened grid
            arrays["rows.shape"] = np.array([0, 6, -1])
            x = node("Reshape", [x, "rows.shape"], "rows")
            x = node("ReduceMean", [x], "pooled", axes=[2], keepdims=0)
        elif head in ("Expand", "Grid"):  # as in VGG networks of torchvision
            sides = [min(2, size // 2)] * 2
            x = node("MaxPool", [x], "coarse", kernel_shape=sides, strides=sides)
            x = node("Relu", [x], "coarse.r")
            for name in ("plain1", "plain2"):
                x = node("Conv", [x, weight(f"{name}.weight", 6, 6, 1, 1)], f"{name}.conv")
                x = node("Relu", [x], name)
            mean = node("ReduceMean", [x], "mean", axes=[1], keepdims=1)
            x = node("Sub", [x, mean], "centered")
            if head == "Expand":  # to the grid of larger images
                x = node("MaxPool", [x], "pooled", kernel_shape=[2, 2])
                arrays["grid"] = np.array([1, 6, 2, 2])
                x = node("Expand", [x, "grid"], "expanded")
        else:
            if head == "Two":  # after blocks that begin with their activation
                x = node("MaxPool", [x], "coarse", kernel_shape=[2, 2], strides=[2, 2])
                for name in ("start", "sum1", "sum2"):
                    y = x if name == "start" else node("Relu", [x], f"{name}.r")
                    y = node("Conv", [y, weight(f"{name}.weight", 6, 6, 1, 1)], f"{name}.conv")
                    squeezed = node("GlobalAveragePool", [y], f"{name}.squeezed")
                    y = node("Mul", [y, squeezed], f"{name}.scaled")
                    x = y if name == "start" else node("Add", [x, y], name)
            x = node("GlobalAveragePool", [x], "pooled")
        if head == "Reshape":  # to a fixed number of images
            arrays["shape"] = np.array([batch, 6])
            x = node("Reshape", [x, "shape"], "flat")
        elif head == "Shape":  # to the number of images, as PyTorch counts them
            arrays["channels"] = np.array([6])
            node("Shape", ["image"], "count", start=0, end=1)
            node("Concat", ["count", "channels"], "shape", axis=0)
            x = node("Reshape", [x, "shape"], "flat")
        else:
            x = node("Flatten", [x], "flat")
        if head == "Two":  # as in distilled transformers
            y = node("Gemm", [x, weight("fc2", 5, 6)], "logits2", transB=1)
            x = node("Gemm", [x, weight("fc", 5, 6)], "logits1", transB=1)
            node("Add", [x, y], "logits")
        else:
            features = 6 * max(1, size // 4) ** 2 if head in ("Expand", "Grid") else 6
            inputs = [x, weight("fc", 5, features), weight("fc.bias", 5)]
            node("Gemm", inputs, "logits", transB=1)
    output = node(ending, ["logits"], "output") if ending else "logits"
    shape = [batch, 3, size, size]
    return save_graph(path, nodes, arrays, shape, output=output, batch=batch, classes=5)


def patch_network(path):
    """Write a network that merges patches and has no convolutions after, and return its file.

    It has the blocks `sum1` of [B, 2, 2, 6] and `sum2` of [B, 2, 2, 8], whose map is transposed
    and pooled. Images have 8 x 8 pixels.
    """
    rng = np.random.default_rng(0)
    shapes = {"patch": (4, 3, 2, 2), "merge": (16, 6), "one": (6, 6), "fc": (8, 5)}
    shapes |= {"bias": (6,), "wider": (6, 8), "two": (8, 8)}
    arrays = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    arrays["shape"] = np.array([0, 2, 2, 16])
    nodes = [
        helper.make_node("Conv", ["image", "patch"], ["patches"], strides=[2, 2]),
        helper.make_node("Transpose", ["patches"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "shape"], ["merged"]),
        helper.make_node("MatMul", ["merged", "merge"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["x"]),
        helper.make_node("MatMul", ["x", "one"], ["y1"]),
        helper.make_node("Add", ["x", "y1"], ["sum1"]),
        helper.make_node("MatMul", ["sum1", "wider"], ["wide"]),
        helper.make_node("MatMul", ["wide", "two"], ["y2"]),
        helper.make_node("Add", ["wide", "y2"], ["sum2"]),
        helper.make_node("Transpose", ["sum2"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("GlobalAveragePool", ["first"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "fc"], ["logits"]),
    ]
    return save_graph(path, nodes, arrays, ["N", 3, 8, 8], classes=5)


def save_graph(path, nodes, arrays, image_shape, output="logits", batch="N", classes=4):
    """Write a graph from `image` to one output [B, classes], and return its file.

    `arrays` has the constants by name. Those that are not integers become float32.
    """
    initializers = [
        numpy_helper.from_array(x if x.dtype == "int64" else x.astype("float32"), name)
        for name, x in arrays.items()
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image_shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, classes])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def tensors_of(path, names, images):
    """Values of tensors of an ONNX file, by onnx' own evaluator in NumPy."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return ReferenceEvaluator(model).run(None, {"image": images})


def outputs_at(images, model, *names):
    """Outputs of layers of a model for images."""
    outputs = [model.get_layer(name).output for name in names]
    return keras.Model(model.inputs, outputs).predict(images, verbose=0)
