"""letKD for Keras 3: knowledge distillation through a layer that the student keeps."""

import itertools
import sys

from letkd_keras.lazy_names import lazy_names as _lazy_names

__version__ = "0.1.0"

# Name -> module it comes from. These are what README uses, the parts of letKD, what prepares a
# model, and every sub-package, which has the rest. A sub-package has no module.
_PUBLIC = {
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
    "data": None,
    "distillers": None,
    "export": None,
    "export_student": "export",
    "fit_prototypes": "prototypes",
    "functional": None,
    "insert_kd_layers": "functional",
    "layers": None,
    "limit_normalization_momentum": "functional",
    "losses": None,
    "models": None,
    "optimizers": None,
    "prototypes": None,
    "quantization_aware": "functional",
    "recipes": None,
    "remove_softmax": "functional",
    "suggest_layers": "functional",
    "without_fake_quantization": "functional",
}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)


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
    for _name in _PUBLIC:
        __getattr__(_name)
