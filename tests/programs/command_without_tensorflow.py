"""Run a command's module as `python -m` does and print which heavy packages it imported.

    command_without_tensorflow.py MODULE [OPTIONS...]

The last line of the output lists the packages. The exit status is the command's.
"""

import runpy
import sys

_HEAVY = ("keras", "tensorflow", "jax", "numpy", "sklearn", "faiss", "matplotlib", "rich")

module = sys.argv[1]
# Only `python -m` makes the package's own import light.
sys.orig_argv = ["python", "-m", *sys.argv[1:]]
sys.argv = sys.argv[1:]
status = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code
finally:
    print("imported:", *(name for name in _HEAVY if name in sys.modules))
raise SystemExit(status)
