"""Check the names of networks where importing Keras or TensorFlow fails."""

import sys


class NoKeras:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras", "tensorflow", "jax", "numpy"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, NoKeras())
# The package imports everything unless it sees that a command runs.
sys.orig_argv = [sys.executable, "-m", "letkd_keras.models"]
from letkd_keras.models import check_network_name  # noqa: E402

for name in sys.argv[1:]:
    try:
        print(check_network_name(name).kind)
    except ValueError as error:
        print(error)
