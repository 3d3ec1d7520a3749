"""CIFAR as one `.npz` file, for machines without TensorFlow. See `--help`.

python -m letkd_keras.data --dataset cifar100 --out cifar100.npz
KERAS_BACKEND=jax python -m letkd_keras.recipes.cifar100 --data-dir cifar100.npz
"""

import argparse
import sys

from letkd_keras.data.cifar import load_cifar
from letkd_keras.data.npz_file import save_npz


def main(arguments=None):
    """Read a data set through tensorflow-datasets and write it."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", default="cifar100", help="cifar100 or cifar10")
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--out", required=True, help="the .npz file to write")
    options = parser.parse_args(arguments)
    try:
        data = load_cifar(options.dataset, options.data_dir)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    save_npz(data, options.out)
    print(f"{options.out}: {data.name}, {data.split}")


if __name__ == "__main__":
    main()
