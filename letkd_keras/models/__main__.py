"""Write a PyTorch checkpoint of a network of the zoo as a .keras file.

    python -m letkd_keras.models --network resnet56 --weights resnet56.pth --out teacher.keras

Checkpoints of RepDistiller, mdistiller and torchvision are read; nothing of them is executed.
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import add_out_option
from letkd_keras.commands.option_types import output_file, path, text
from letkd_keras.ranges import class_count, image_size


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.models", __doc__)
    add = parser.add_argument
    add("--network", required=True, type=text, metavar="NAME", help="network, such as resnet56")
    add("--weights", required=True, type=path, metavar="FILE", help="a .pth or .safetensors file")
    add_out_option(
        parser, type=output_file(".keras"), required=True, help="the .keras file to write"
    )
    add(
        "--num-classes",
        type=class_count,
        metavar="N",
        help="number of classes (default: 100, of ImageNet networks 1000)",
    )
    add(
        "--image-size",
        type=image_size,
        metavar="N",
        help="height and width of the images (default: 32, of ImageNet networks 224)",
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Build the network, load the weights and save it."""
    options = parse(arguments)
    from letkd_keras.errors import argument_renamed
    from letkd_keras.files import check_writable, save_model
    from letkd_keras.models import build, load_torch_weights
    from letkd_keras.models.zoo import image_shape

    check_writable(options.out.absolute().parent, "out")
    shape = options.image_size and image_shape(options.image_size)
    with argument_renamed("name", "network"):
        model = build(options.network, options.num_classes, shape)
    with argument_renamed("path", "weights"):
        load_torch_weights(model, options.weights)
    save_model(model, options.out)
    print(
        f"{options.out}: {options.network} with {model.output_shape[-1]} classes and "
        f"{model.count_params():,} parameters"
    )


if __name__ == "__main__":
    run_main(main)
