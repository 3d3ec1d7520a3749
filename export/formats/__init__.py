"""The formats that a student is exported to."""

from letkd_keras.export.formats.table import Format, expand, find, names

__all__ = ["Format", "expand", "find", "names"]
