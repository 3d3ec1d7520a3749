"""Quantization-aware training, pruning and clustering with tensorflow-model-optimization.

Each function rebuilds the folded student in tf_keras and trains it for a few epochs to match the
class probabilities of the original. This needs images, but no labels.
"""

import tempfile
from unittest import mock

import numpy as np
from scipy.special import softmax

from letkd_keras.export.batch_norm_folding import fold_batch_norms
from letkd_keras.export.comparison import logits_of
from letkd_keras.export.formats.savedmodel import serving
from letkd_keras.export.formats.tflite import convert_savedmodel
from letkd_keras.export.inverse_rms import with_calibrated_floors
from letkd_keras.export.tfmot.bridge import import_tfmot, to_tf_keras
from letkd_keras.functional.graph import flatten

_BATCH = 32


def write_quantization_aware(student, path, options):
    """Write an int8 TFLite file after training with the quantization in the network.

    The ranges of the results start at those of the calibration images. tfmot itself starts them at
    [-6, 6] and moves them by a thousandth of the distance in each step, so that a short training
    would cut off larger results.

    Args:
        student: Functional `keras.Model` that returns logits, folded.
        path: File to write.
        options: `ExportOptions` with `calibration`, the images to train on, and `epochs`.

    Raises:
        ImportError: If tensorflow-model-optimization or tf_keras is not installed.
        ValueError: If tf_keras has no counterpart of a layer.
    """
    tf_keras, tfmot = import_tfmot()
    from letkd_keras.export.tfmot.layers import CUSTOM

    student = with_calibrated_floors(student, options.calibration)
    quantization = tfmot.quantization.keras

    class ResultsOnly(quantization.QuantizeConfig):
        """Quantizes the results of a layer without weights."""

        def get_weights_and_quantizers(self, layer):
            return []

        def get_activations_and_quantizers(self, layer):
            return []

        def set_quantize_weights(self, layer, quantize_weights):
            pass

        def set_quantize_activations(self, layer, quantize_activations):
            pass

        def get_output_quantizers(self, layer):
            if isinstance(layer, moving):
                return []
            return [
                quantization.quantizers.MovingAverageQuantizer(
                    num_bits=8, per_axis=False, symmetric=False, narrow_range=False
                )
            ]

        def get_config(self):
            return {}

    # Layers that only move values must not change the scale of the quantization: a padding after
    # them, which tfmot does not quantize, has the same scale at its input and its output.
    moving = (CUSTOM["ChannelShuffle"], CUSTOM["ChannelSplit"])
    # tfmot cannot quantize these by itself.
    custom = (*CUSTOM.values(), tf_keras.layers.Multiply, tf_keras.layers.Rescaling)

    def annotate(layer):
        config = ResultsOnly() if isinstance(layer, custom) else None
        return quantization.quantize_annotate_layer(layer, config)

    with quantization.quantize_scope({**CUSTOM, "ResultsOnly": ResultsOnly}):
        plain = to_tf_keras(student)
        annotated = tf_keras.models.clone_model(plain, clone_function=annotate)
        model = quantization.quantize_apply(annotated)
        _measure_ranges(model, quantization.quantizers.MovingAverageQuantizer, options.calibration)
        # Larger steps move the student further from its probabilities than rounding does.
        _fine_tune(model, student, options, learning_rate=1e-5)
        _write(model, path, options, quantized=True)


def write_pruned(student, path, options):
    """Write a float32 TFLite file in which a share `sparsity` of each kernel is zero.

    The file has the same size as before, but is small once compressed. Dense layers and
    convolutions, except depthwise ones, are pruned gradually during the training, smallest values
    first. The arguments are those of `write_quantization_aware`.
    """
    tf_keras, tfmot = import_tfmot()
    from letkd_keras.export.tfmot.layers import CUSTOM

    sparsity = tfmot.sparsity.keras
    epochs = options.epochs or 10
    steps = epochs * -(-len(options.calibration) // _BATCH)
    # In the last third of the steps, the remaining values are trained without further pruning.
    schedule = sparsity.PolynomialDecay(
        0.0, options.sparsity, 0, max(2 * steps // 3, 1), frequency=1
    )

    def prune(layer):
        if _has_kernel(layer, tf_keras):
            return sparsity.prune_low_magnitude(layer, pruning_schedule=schedule)
        return layer

    with tf_keras.utils.custom_object_scope(CUSTOM):
        model = tf_keras.models.clone_model(to_tf_keras(student), clone_function=prune)
        _fine_tune(model, student, options, epochs, 3e-4, [sparsity.UpdatePruningStep()])
        _write(sparsity.strip_pruning(model), path, options)


def write_clustered(student, path, options):
    """Write a float32 TFLite file whose kernels have at most `clusters` different values each.

    The file has the same size as before, but is small once compressed. Depthwise kernels keep their
    values. The arguments are those of `write_quantization_aware`.
    """
    tf_keras, tfmot = import_tfmot()
    from letkd_keras.export.tfmot.layers import CUSTOM

    clustering = tfmot.clustering.keras
    initialization = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
    # The converter would fold them into kernels that are clustered already.
    student = fold_batch_norms(flatten(student))

    def cluster(layer):
        # A smaller kernel has so few values without clustering.
        if _has_kernel(layer, tf_keras) and layer.kernel.shape.num_elements() > options.clusters:
            return clustering.cluster_weights(
                layer,
                number_of_clusters=options.clusters,
                cluster_centroids_init=initialization,
            )
        return layer

    with tf_keras.utils.custom_object_scope(CUSTOM):
        model = tf_keras.models.clone_model(to_tf_keras(student), clone_function=cluster)
        _fine_tune(model, student, options)
        _write(clustering.strip_clustering(model), path, options)


def _has_kernel(layer, tf_keras):
    # A depthwise convolution of tf_keras is no `Conv2D`.
    return isinstance(layer, tf_keras.layers.Conv2D | tf_keras.layers.Dense)


def _measure_ranges(model, quantizer_type, images):
    """Start the range of each result at its smallest and largest value for the images.

    A result that is 0 for all images keeps the range of tfmot: TFLite needs one that is not empty.

    Args:
        model: Quantized tf_keras model.
        quantizer_type: Type of the quantizers that have a moving average of the range.
        images: Images that the model takes, [N, H, W, C].
    """
    ranges = {}

    def measure(_, results, training, weights, **kwargs):
        variables = weights["min_var"].ref(), weights["max_var"].ref()
        # tfmot's ranges contain 0.
        lowest, highest = ranges.get(variables, (0.0, 0.0))
        ranges[variables] = min(lowest, np.min(results)), max(highest, np.max(results))
        return results

    # For most layers tfmot makes the quantizers itself, so that none can be passed to it.
    with mock.patch.object(quantizer_type, "__call__", measure):
        for start in range(0, len(images), _BATCH):
            # As in the training, so that the kernels are rounded.
            model(images[start : start + _BATCH], training=True)
    for variables, measured in ranges.items():
        if any(measured):
            for variable, value in zip(variables, measured, strict=True):
                variable.deref().assign(value)


def _fine_tune(model, student, options, epochs=3, learning_rate=1e-4, callbacks=()):
    """Train a tf_keras model to match the student's probabilities on the calibration images.

    `epochs` and `learning_rate` are the format's defaults; those of the options have priority.
    """
    import tf_keras

    epochs = options.epochs or epochs
    learning_rate = options.learning_rate or learning_rate
    images = np.asarray(options.calibration, "float32")
    targets = softmax(logits_of(student, images), axis=-1)
    model.compile(
        optimizer=tf_keras.optimizers.Adam(learning_rate),
        loss=tf_keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    tf_keras.utils.set_random_seed(options.seed)
    model.fit(
        images,
        targets,
        batch_size=_BATCH,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )


def _write(model, path, options, quantized=False):
    import tensorflow as tf

    image = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, "image")
    serve = tf.function(serving(model, options), [image])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(model, folder, signatures={"serving_default": serve})
        convert_savedmodel(folder, path, quantized=quantized)
