"""letKD for Keras 3: knowledge distillation through a layer that the student keeps."""

import importlib
import itertools
import sys

__version__ = "0.1.0"

# Name -> module it comes from. Names without a module are sub-packages.
_PUBLIC = {
    "CRD": "distillers",
    "Distiller": "distillers",
    "IntermediateTargets": "layers",
    "KD": "distillers",
    "KDLayer": "layers",
    "LetKD": "distillers",
    "PenultimateTargets": "layers",
    "Prototypes": "prototypes",
    "TemplateKLDivergence": "losses",
    "TorchBatchNormalization": "layers",
    "TorchSGD": "optimizers",
    "cost_of": "functional",
    "distillers": None,
    "export_student": "export",
    "fit_prototypes": "prototypes",
    "insert_kd_layers": "functional",
    "layers": None,
    "losses": None,
    "models": None,
    "optimizers": None,
    "quantization_aware": "functional",
    "remove_softmax": "functional",
    "suggest_layers": "functional",
    "without_fake_quantization": "functional",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name] or name}")
    return module if _PUBLIC[name] is None else getattr(module, name)


def __dir__():
    return sorted([*globals(), *_PUBLIC])


def _runs_as_command():
    """Whether Python was started as `python -m letkd_keras.SOMETHING`."""
    arguments = sys.orig_argv
    return any(
        flag == "-m" and module.split(".")[0] == __name__
        for flag, module in itertools.pairwise(arguments)
    )


# A program that imports this package gets everything at once, so that Keras knows the classes of
# saved models. A command imports what it needs after it has parsed its options: `--help` is then
# answered without TensorFlow.
if not _runs_as_command():
    globals().update({name: __getattr__(name) for name in _PUBLIC})
