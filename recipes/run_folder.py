import json
from pathlib import Path

from letkd_keras.files import open_atomic


class RunFolder:
    """A folder of results that a person can read and an interrupted run goes on in.

    Args:
        path: The folder; it is made if it is not there.
        config: JSON-like dictionary of everything the results depend on.

    Raises:
        ValueError: If the folder holds a run of another configuration, or something else.
    """

    def __init__(self, path, config):
        self.path = Path(path)
        config = json.loads(json.dumps(config))
        file = self.path / "config.json"
        if file.exists():
            _check_same(read_json(file), config, self.path)
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"`run_dir` must be new, empty or an earlier run's. "
                f"Received: {str(self.path)!r}, which has files but no config.json"
            )
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(file, config)

    def __truediv__(self, name):
        return self.path / name


def _check_same(old, new, path):
    keys = sorted(set(old) | set(new))
    differing = [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in keys
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise ValueError(
            f"`run_dir` {str(path)!r} holds a run of another configuration "
            f"({'; '.join(differing)}). Choose another folder, or repeat the earlier options."
        )


def read_json(path):
    """What a JSON file holds."""
    return json.loads(Path(path).read_text())


def write_json(path, value):
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path, text):
    """Write a text file whole or not at all."""
    with open_atomic(path) as file:
        file.write(text.encode())


def save_model(model, path):
    """Save a `.keras` file whole or not at all."""
    path = Path(path)
    aside = path.with_name(f".{path.stem}.part.keras")
    model.save(aside)
    aside.replace(path)
