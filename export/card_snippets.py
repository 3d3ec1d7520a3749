"""Programs for the model card that run an artifact on one image."""

from letkd_keras.export.card_file import options_of


def python_snippet(card, name):
    """A program for litert in Python that prints the class of `image.jpg`.

    Args:
        card: The card as a dictionary.
        name: Name of a TFLite format of the card.

    Returns:
        Lines.
    """
    inputs, artifact, output = card["inputs"], card["artifacts"][name], card["outputs"]["kind"]
    height, width, channels = inputs["shape"]
    crop = "" if inputs["crop"] == 1 else f", bleed={(1 - inputs['crop']) / 2:.4f}"
    lines = [
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "from PIL import Image, ImageOps",
        "",
        'image = ImageOps.exif_transpose(Image.open("image.jpg"))',
        'if image.mode.startswith("I"):  # 16 bits, of which the upper 8 are used',
        '    image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))',
        'image = image.convert("RGBA")',
        'white = Image.new("RGBA", image.size, "white")  # behind transparent parts',
        f'image = Image.alpha_composite(white, image).convert("{"RGB" if channels == 3 else "L"}")',
        f"image = ImageOps.fit(image, ({width}, {height}), Image.Resampling.BILINEAR{crop})",
        f'image = np.asarray(image, "{artifact["input_dtype"]}")'
        f"[None{'' if channels == 3 else ', ..., None'}]",
    ]
    if inputs["kind"] == "normalized":
        lines += [
            f"mean, std = np.float32({list(inputs['mean'])}), np.float32({list(inputs['std'])})",
            "image = (image / 255 - mean) / std",
        ]
    lines += [
        f'runner = Interpreter("{artifact["file"]}").get_signature_runner("serving_default")',
        f'{output} = runner(image=image)["{output}"][0]',
    ]
    if card["class_names"]:
        lines += [
            'labels = open("labels.txt", encoding="utf-8").read().splitlines()',
            f"print(labels[{output}.argmax()])",
        ]
    else:
        lines += [f"print({output}.argmax())"]
    return lines


def kotlin_snippet(card, name):
    """The same for Android: a function from a bitmap to the number of its class.

    Args:
        card: The card as a dictionary.
        name: Name of a TFLite format of the card.

    Returns:
        Lines.
    """
    inputs, artifact, outputs = card["inputs"], card["artifacts"][name], card["outputs"]
    height, width, _ = inputs["shape"]
    is_byte = artifact["input_dtype"] == "uint8"
    size = 3 * height * width * (1 if is_byte else 4)
    kind, count = outputs["kind"], outputs["classes"]
    array = "ByteArray" if artifact["output_dtype"] == "int8" else "FloatArray"
    if is_byte:
        write = ["    for (color in colors) for (shift in intArrayOf(16, 8, 0))"]
        write += ["        image.put((color shr shift).toByte())"]
    elif inputs["kind"] == "pixels":
        write = ["    for (color in colors) for (shift in intArrayOf(16, 8, 0))"]
        write += ["        image.putFloat(((color shr shift) and 255).toFloat())"]
    else:
        mean, std = (", ".join(f"{value:.6g}f" for value in inputs[key]) for key in ("mean", "std"))
        write = [
            f"    val mean = floatArrayOf({mean})",
            f"    val std = floatArrayOf({std})",
            "    for (color in colors) for (channel in 0..2) {",
            "        val value = ((color shr (16 - 8 * channel)) and 255) / 255f",
            "        image.putFloat((value - mean[channel]) / std[channel])",
            "    }",
        ]
    return [
        "import android.graphics.Bitmap",
        "import java.nio.ByteBuffer",
        "import java.nio.ByteOrder",
        "// In com.google.ai.edge.litert:litert, versions 1.4, or 2.1 and later.",
        "// This function has not been compiled.",
        "import org.tensorflow.lite.Interpreter",
        "",
        f"// model: a direct ByteBuffer in native byte order with the bytes of {artifact['file']}",
        f"// part: {_part(inputs)}.",
        "// It is turned as the EXIF data of the photo say, and is not of Bitmap.Config.HARDWARE.",
        f"// The function scales the part and gives the file {_values(inputs, artifact)}.",
        f"// Returns the number of the class, from 0{_line(card)}.",
        "fun classify(model: ByteBuffer, part: Bitmap): Int {",
        "    var scaled = part",
        "    // Each step reads only the four pixels next to a point, and so must not be large.",
        f"    while (scaled.width >= {2 * width} && scaled.height >= {2 * height})",
        "        scaled = Bitmap.createScaledBitmap("
        "scaled, scaled.width / 2, scaled.height / 2, true)",
        f"    scaled = Bitmap.createScaledBitmap(scaled, {width}, {height}, true)",
        f"    val colors = IntArray({width} * {height})",
        f"    scaled.getPixels(colors, 0, {width}, 0, 0, {width}, {height})",
        f"    val image = ByteBuffer.allocateDirect({size}).order(ByteOrder.nativeOrder())",
        *write,
        "    image.rewind()",
        f"    val {kind} = Array(1) {{ {array}({count}) }}",
        "    Interpreter(model).use { interpreter ->",
        "        interpreter.runSignature(",
        f'            mapOf<String, Any>("image" to image), mapOf<String, Any>("{kind}" to {kind}),'
        ' "serving_default"',
        "        )",
        "    }",
        f"    return {kind}[0].indices.maxBy {{ {kind}[0][it] }}",
        "}",
    ]


def snippets(card, name):
    """The snippets that an artifact has.

    They are for TFLite files whose pixels are known: the program in Python for RGB and for
    grayscale, the function in Kotlin for RGB.

    Args:
        card: The card as a dictionary.
        name: Name of a format of the card.

    Returns:
        Dictionary from the language to the function that returns the lines.
    """
    inputs, artifact = card["inputs"], card["artifacts"][name]
    integer = artifact.get("input_dtype") == "int8"  # needs the scale, which is in the file
    shape = inputs["shape"]
    channels = shape[-1] if len(shape) == 3 and None not in shape else None
    known = options_of(card).knows_pixels
    if not artifact["file"].endswith(".tflite") or not known or integer:
        return {}
    of_grayscale = {"Python": python_snippet}
    of_rgb = of_grayscale | {"Kotlin": kotlin_snippet}
    return {1: of_grayscale, 3: of_rgb}.get(channels, {})


def _part(inputs):
    height, width, _ = inputs["shape"]
    share = "" if inputs["crop"] == 1 else f"{100 * inputs['crop']:g}% of "
    if height == width:
        return f"the center square of a photo; its side is {share}the shorter side of the photo"
    return f"{share}the largest part of a photo around its center with the sides {width}:{height}"


def _values(inputs, artifact):
    if inputs["kind"] == "normalized":
        return "normalized float32 pixels"
    return f"{artifact['input_dtype']} pixels from 0 to 255"


def _line(card):
    return ", which is that of its line in labels.txt" if card["class_names"] else ""
