"""A PyTorch checkpoint to a `.keras` file from the command line: see `--help`."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from letkd_keras.files import open_atomic
from letkd_keras.models import build, load_torch_weights

_EPILOG = """example:
  %(prog)s --network resnet56 --weights resnet56.pth --num-classes 100 --out teacher.keras
"""


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: List of strings; `None` takes those of the process.

    Returns:
        Exit status: 0, or 2 after an error, which is printed as one line.
    """
    options = _parser().parse_args(arguments)
    try:
        _check_out(options.out)
        shape = options.input_size and (options.input_size, options.input_size, 3)
        model = build(options.network, options.num_classes, shape)
        load_torch_weights(model, options.weights)
        save_whole(model, options.out)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"written: {options.out}, {options.network} of {model.output_shape[-1]} classes and "
        f"{model.count_params():,} parameters"
    )
    return 0


def save_whole(model, path):
    """Save a `.keras` file whole or not at all; an existing one stays until then."""
    with tempfile.TemporaryDirectory() as folder, open_atomic(path) as file:
        model.save(Path(folder) / "model.keras")
        with Path(folder, "model.keras").open("rb") as saved:
            shutil.copyfileobj(saved, file)


def _check_out(path):
    if path.suffix != ".keras":
        raise ValueError(f"`out` must end in .keras. Received: out={str(path)!r}")


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.models",
        description="Write a PyTorch checkpoint of a network of the zoo as a .keras file.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--network", required=True, metavar="NAME", help="a network of the zoo, e.g. resnet56")
    add("--weights", required=True, metavar="FILE", help="a .pth or .safetensors file")
    add("--out", required=True, type=Path, metavar="FILE", help="the .keras file to write")
    add("--num-classes", type=int, metavar="N", help="classes (100; ImageNet networks: 1000)")
    add("--input-size", type=int, metavar="N", help="of the images (32; ImageNet networks: 224)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
