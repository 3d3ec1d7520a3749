import zipfile
from pathlib import Path

import keras


def load_model(path, argument="path"):
    """Load a `.keras` file, or fail with one clear sentence.

    Args:
        path: The file.
        argument: Name of the path in errors.

    Returns:
        A `keras.Model` that is not compiled.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no complete `.keras` file or needs classes that are not
            registered.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`{argument}` must be a .keras file. Received: {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`{argument}` must be a complete .keras file. Received: {str(path)!r}")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises errors of many types here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"`{argument}` must be a .keras file with layers of Keras or of this package. "
            f"Received: {str(path)!r}: {reason[0]}"
        ) from error
