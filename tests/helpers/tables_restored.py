"""The tables that a module of a user may add rows to."""

from contextlib import contextmanager

from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.models import zoo
from letkd_keras.recipes.experiments.methods import METHODS


@contextmanager
def tables_restored():
    """A scope after which methods, losses and networks are those of before."""
    tables = (METHODS, LOGIT_LOSSES, zoo._ADDED)
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, rows in zip(tables, before, strict=True):
            table.clear()
            table.update(rows)
