"""What there is to run: `python -m letkd_keras.recipes --list`."""

import argparse

_RECIPES = """recipes (each has --help):
  python -m letkd_keras.recipes.digits         letKD in minutes: real digits, no download
  python -m letkd_keras.recipes.cifar100       the paper's CIFAR-100 pairs
  python -m letkd_keras.recipes.tiny_imagenet  the paper's Tiny-ImageNet pairs
  python -m letkd_keras.recipes.imagenet       the paper's ImageNet pairs
  python -m letkd_keras.recipes.folder         your own images, teacher and student
  python -m letkd_keras.recipes.compare        methods beside each other, many seeds, one table
  python -m letkd_keras.recipes.ablations      alphas, numbers of templates, temperature, LDA probe
"""
# Wide enough for the widest table where the output is no terminal.
_WIDTH = 140


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes",
        description="The papers' experiments, and yours.",
        epilog=_RECIPES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="print methods, networks and pairs with parameters, multiply-adds, published accuracy",
    )
    if not parser.parse_args(arguments).list:
        parser.print_help()
        return
    from rich.console import Console

    from letkd_keras.recipes.listing import tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    for table in tables():
        console.print(table)


if __name__ == "__main__":
    main()
