"""List methods, networks and pairs: `python -m letkd_keras.recipes --list`."""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import add_import_option

_RECIPES = """recipes (python -m letkd_keras.recipes.NAME, each with its own --help):
  digits         letKD in minutes: real digits, no download
  cifar100       the paper's CIFAR-100 pairs
  tiny_imagenet  the paper's Tiny-ImageNet pairs
  imagenet       the paper's ImageNet pairs
  folder         your own images, teacher and student
  compare        several methods and seeds under one teacher, in one table
  explain        how the methods of a folder of compare differ
  ablations      the paper's ablations and figures
"""


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser(
        "letkd_keras.recipes", "The experiments of the paper, and your own.", epilog=_RECIPES
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="print methods, losses, networks and pairs with all published accuracies",
    )
    add_import_option(parser)
    options = parser.parse_args(arguments)
    if not options.list:
        parser.print_help()
    return options


def main(arguments=None):
    """Run the command."""
    if not parse(arguments).list:
        return
    from letkd_keras.commands.terminal import print_table, print_text
    from letkd_keras.recipes.listing import tables

    for table in tables():
        print_text(f"\n{table.title}\n")
        print_table(table.heads, table.rows)
        if table.caption:
            print_text(f"\n{table.caption}")


if __name__ == "__main__":
    run_main(main)
