"""Classify images with an exported student.

    python -m letkd_keras.export.classify exported/student_int8.tflite photo.jpg

The most probable classes of each image are printed. Only the artifact, its card.json and its
runtime are used: ai-edge-litert for TFLite, onnxruntime for ONNX, TensorFlow for a SavedModel.

Loading a SavedModel can run code that it contains. Use only artifacts of a source that you trust.
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.log_file import stderr_to_log
from letkd_keras.commands.option_types import path
from letkd_keras.export import formats
from letkd_keras.export.card_file import options_of, read_card
from letkd_keras.files import checksum
from letkd_keras.ranges import positive_integer

# What runs each kind of artifact, as pip installs it.
_PACKAGES = {"tflite": "ai-edge-litert", "onnx": "onnxruntime", "savedmodel": "tensorflow"}


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.export.classify", __doc__)
    add = parser.add_argument
    add("file", type=path, metavar="FILE", help="an artifact beside its card.json")
    add("images", type=path, nargs="+", metavar="IMAGE", help="image files")
    add("--top", type=positive_integer, metavar="N", default=3, help="number of classes to print")
    return parser.parse_args(arguments)


def classify(file, images):
    """Compute the probabilities of images with an artifact.

    Each image is resized as the student's test images were: the shorter side (bilinear), then the
    center is cropped. A student of any size gets the size that its artifact was checked on.

    Args:
        file: Path of an artifact that the card.json beside it lists.
        images: Paths of image files.

    Returns:
        `(probabilities, class_names)`: float32 [N, classes], and a list of names. Without names in
        the card they are the numbers of the classes.

    Raises:
        FileNotFoundError: If there is no card, no artifact or no image.
        ValueError: If the card does not list the artifact, the artifact is not the file that was
            exported, it takes neither RGB nor grayscale images, or an image is damaged.
        ImportError: If the runtime is not installed.
    """
    import numpy as np
    from scipy.special import softmax

    card = _card_of(file)
    name = _format_of(file, card)
    options = options_of(card)
    pixels = np.stack([_pixels(image, card["inputs"]) for image in images]).astype("float32")
    if options.input == "normalized":
        if options.mean is None:
            raise ValueError(
                f"`file` must take pixels, or its card.json must have their mean and standard "
                f"deviation. Received: file={str(file)!r} with images 'normalized as in training'"
            )
        pixels = options.normalize(pixels)
    outputs = _run(formats.find(name).runtime, file, pixels)
    if options.output == "logits":
        outputs = softmax(outputs, axis=-1)
    names = card.get("class_names") or list(map(str, range(outputs.shape[-1])))
    if len(names) != outputs.shape[-1]:
        raise ValueError(
            f"{file.parent / 'card.json'} is damaged: it names {len(names)} classes, but the "
            f"artifact has {outputs.shape[-1]}."
        )
    return outputs, names


def _card_of(file):
    if not file.exists():
        raise FileNotFoundError(
            f"`file` must be an exported artifact. Received: file={str(file)!r}, which does not "
            "exist"
        )
    if (file / "card.json").is_file():
        listed = ", ".join(each["file"] for each in read_card(file)["artifacts"].values())
        raise ValueError(
            f"`file` must be one of the artifacts in the folder: {listed}. "
            f"Received: file={str(file)!r}"
        )
    if not (file.parent / "card.json").is_file():
        raise FileNotFoundError(
            "`file` must lie beside its card.json, which says what the artifact takes and returns. "
            f"Received: file={str(file)!r} without a card.json"
        )
    return read_card(file.parent)


def _format_of(file, card):
    artifacts = card["artifacts"]
    name = next((name for name in artifacts if artifacts[name]["file"] == file.name), None)
    if name is None:
        listed = ", ".join(artifact["file"] for artifact in artifacts.values())
        raise ValueError(
            f"`file` must be an artifact that its card.json lists: {listed}. "
            f"Received: file={str(file)!r}"
        )
    if checksum(file) != artifacts[name]["sha256"]:
        raise ValueError(
            "`file` must be the artifact that was exported; its checksum is not that in card.json. "
            f"Received: file={str(file)!r}"
        )
    return name


def _pixels(image, inputs):
    """uint8 [H, W, C] of an image file."""
    import numpy as np
    from PIL import Image

    from letkd_keras.data.decoding import decode

    *sides, channels = *inputs["checked_size"], inputs["shape"][-1]
    if channels not in (1, 3) or len(sides) != 2 or len(set(sides)) != 1:
        raise ValueError(
            "`file` must take square RGB or grayscale images. Received: an artifact for images of "
            f"{' x '.join(map(str, [*sides, channels]))}"
        )
    if not image.is_file():
        raise FileNotFoundError(
            f"`images` must be image files. Received: {str(image)!r}, which is not a file"
        )
    size = sides[0]
    resized = decode(image, round(size / inputs["crop"]))
    if channels == 1:
        resized = np.asarray(Image.fromarray(resized).convert("L"))[..., None]
    border = (len(resized) - size) // 2
    return resized[border : border + size, border : border + size]


def _run(runtime, file, images):
    import numpy as np

    from letkd_keras.export.formats.reload import RUNTIMES

    with stderr_to_log():  # runtimes say there what they do
        try:
            run = RUNTIMES[runtime](str(file), None)
        except ImportError as error:
            raise ImportError(
                f"{file} needs {_PACKAGES[runtime]}: pip install {_PACKAGES[runtime]}"
            ) from error
        return np.concatenate([run(image[None]) for image in images])


def main(arguments=None):
    """Classify and print."""
    options = parse(arguments)
    probabilities, names = classify(options.file, options.images)
    width = max(len(str(name)) for name in names)
    for image, row in zip(options.images, probabilities, strict=True):
        print(image)
        for index in (-row).argsort(kind="stable")[: options.top]:
            print(f"  {names[index]!s:{width}} {100 * row[index]:6.2f}%")


if __name__ == "__main__":
    run_main(main, interrupted="interrupted")
