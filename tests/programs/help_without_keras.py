"""Print the help of a command where importing Keras or TensorFlow fails."""

import runpy
import sys


class NoKeras:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras", "tensorflow", "jax", "faiss"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, NoKeras())
module = sys.argv[1]
# The package imports everything unless it sees that a command runs.
sys.orig_argv = [sys.executable, "-m", module, "--help"]
sys.argv = [module, "--help"]
runpy.run_module(module, run_name="__main__")
