"""Progress bars in a terminal. Elsewhere nothing is shown: the log says what is being done."""

import sys
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

# Seconds whose speed gives the time left. An epoch's validation is much slower than its steps.
_SPEED_PERIOD = 120


def is_shown():
    """Whether there is a terminal to show a bar in."""
    return sys.stderr.isatty()


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def render(self, task):
        seconds = task.time_remaining
        return Text("" if seconds is None else f"{timedelta(seconds=int(seconds))} left")


def bars(shown=None):
    """Progress bars on the standard error stream, which vanish at the end.

    Args:
        shown: Whether they are shown; `None` shows them in a terminal.

    Returns:
        `rich.progress.Progress`, to be used in a `with` statement. Only tasks that are not finished
        are shown. A task can have a field `note`, a text beside its bar.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=14),
        _TimeLeft(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    return _Bars(
        *columns,
        console=Console(stderr=True),
        disable=not (is_shown() if shown is None else shown),
        speed_estimate_period=_SPEED_PERIOD,
        transient=is_shown(),
    )


class _Bars(Progress):
    def add_task(self, description, **options):
        return super().add_task(description, **{"note": "", **options})

    def get_renderables(self):
        tasks = self.tasks
        if is_shown():
            tasks = [task for task in tasks if not task.finished]
        yield self.make_tasks_table(tasks)


@contextmanager
def bar(description, total):
    """A scope with one bar.

    Args:
        description: What is being done, in a few words.
        total: Number of parts.

    Yields:
        A function to call when a part is done. Its options are a `note`, such as the name of the
        next part, and the number of `parts`.
    """
    with bars() as progress:
        task = progress.add_task(description, total=total)

        def advance(note="", parts=1):
            progress.update(task, advance=parts, note=note)

        yield advance
