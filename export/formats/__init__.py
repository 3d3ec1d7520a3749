"""The formats that a student is exported to."""

from letkd_keras.export.formats.table import (
    OPTIONS,
    Format,
    check_calibration,
    check_installed,
    expand,
    find,
    names,
)

__all__ = ["OPTIONS", "Format", "check_calibration", "check_installed", "expand", "find", "names"]
