"""Write a data set to one .npz file that every command reads.

    python -m letkd_keras.data --data cifar100 --out cifar100.npz
    KERAS_BACKEND=jax python -m letkd_keras.recipes.cifar100 --data cifar100.npz

Reading such a file needs neither TensorFlow nor tensorflow-datasets. Photos of a folder are resized
and cropped to one size (--image-size). Data that are read from disk image by image cannot be
written: imagenet:DIR, and tfds:NAME with images of several sizes or of more than 2 GiB. Other data
must fit into the memory. An interrupted command is started again from the beginning.
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import add_data_options, add_out_option, add_seed_option
from letkd_keras.commands.option_types import output_file


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.data", __doc__)
    add_data_options(parser, required=True)
    add_seed_option(parser)
    add_out_option(parser, type=output_file(".npz"), required=True, help="the .npz file to write")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Read the data set and write it."""
    options = parse(arguments)
    from letkd_keras.data.npz import save_npz
    from letkd_keras.data.spec import DataSpec
    from letkd_keras.files import check_writable

    check_writable(options.out.absolute().parent, "out")
    spec = DataSpec.from_options(options)
    data = spec.open()
    save_npz(data, options.out, spec.dataset)
    validation = f", {data.examples('validation'):,} validation" if data.has_validation else ""
    counts = f"{data.train_examples:,} training{validation} and {data.test_examples:,} test images"
    print(f"{options.out}: {data.name}, {counts} ({data.split})")


if __name__ == "__main__":
    run_main(main, interrupted="interrupted; repeat the command")
