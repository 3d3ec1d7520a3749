import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def stage_progress(verbose="auto"):
    """A bar for each stage, on the standard error stream.

    Args:
        verbose: Whether to show it; `"auto"` shows it in a terminal.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = sys.stderr.isatty() if verbose == "auto" else bool(verbose)
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
