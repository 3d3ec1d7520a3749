"""What the command lines of all recipes share."""

import logging
import os
import sys
from pathlib import Path


def add_run_options(parser, *, batch_size, default_dir):
    """Options that every training recipe takes."""
    parser.add_argument("--batch-size", type=int, default=batch_size, help="images a step")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument(
        "--run-dir",
        type=Path,
        help=f"folder of the results; an interrupted run goes on there (default: {default_dir})",
    )


def run_main(main):
    """Run a recipe's `main()` and turn its refusals into one line and exit status 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("letkd_keras").setLevel(logging.INFO)
    try:
        main()
    except (ValueError, FileNotFoundError, FloatingPointError, ImportError) as error:
        if os.environ.get("LETKD_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise SystemExit(130) from None


def show(run_dir):
    """Print the report of a finished run."""
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown((Path(run_dir) / "report.md").read_text()))
    print(f"Everything is in {run_dir}")


def verbosity():
    """Keras' verbosity: bars in a terminal, a line an epoch elsewhere."""
    return 1 if sys.stdout.isatty() else 2
