import zipfile
from pathlib import Path

import keras


def load_model(path, argument="path"):
    """Load a `.keras` file, with one clear sentence where that is not possible.

    Args:
        path: The file.
        argument: What an error calls it.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a whole `.keras` file, or needs classes that are not registered.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be a .keras file. Received: {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`{argument}` must be a whole .keras file. Received: {str(path)!r}")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever a file leads it to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"`{argument}` must be a .keras file whose layers Keras or this package has. "
            f"Received: {str(path)!r}: {reason[0]}"
        ) from error
