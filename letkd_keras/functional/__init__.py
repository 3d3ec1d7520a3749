"""Functions on functional Keras models: suggesting, inserting and removing layers, cost."""

from letkd_keras.functional.classifier import check_classifier
from letkd_keras.functional.cost import Cost, cost_of
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.functional.insertion import insert_after, insert_kd_layers
from letkd_keras.functional.layer_suggestions import suggest_layers, suggest_stage_ends
from letkd_keras.functional.loading import load_model
from letkd_keras.functional.normalization_momentum import limit_normalization_momentum
from letkd_keras.functional.onnx_file import open_onnx
from letkd_keras.functional.quantization_aware_copy import (
    quantization_aware,
    without_fake_quantization,
)
from letkd_keras.functional.softmax_removal import remove_softmax
from letkd_keras.functional.token_grid import feature_maps

__all__ = [
    "Cost",
    "check_classifier",
    "cost_of",
    "feature_maps",
    "fingerprint",
    "insert_after",
    "insert_kd_layers",
    "limit_normalization_momentum",
    "load_model",
    "open_onnx",
    "quantization_aware",
    "remove_softmax",
    "suggest_layers",
    "suggest_stage_ends",
    "without_fake_quantization",
]
