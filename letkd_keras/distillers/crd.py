import math

import keras
import numpy as np
from keras import ops

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.feature_maps import check_feature_maps
from letkd_keras.distillers.memory_bank import MemoryBank, NegativeSampler
from letkd_keras.layers.l2_normalization import l2_normalize
from letkd_keras.losses.loss import Loss
from letkd_keras.losses.teacher_logits import class_indices
from letkd_keras.models.initialization import torch_bias_uniform, torch_uniform
from letkd_keras.ranges import Number, non_negative_number, positive_integer

# exp(1 / temperature), summed over the training images, must be a number of float32.
_temperature = Number(0.02, includes_smallest=True)


@keras.saving.register_keras_serializable("letkd_keras")
class NoiseContrastiveLoss(Loss):
    """-log h of the positive minus the sum of log(1 - h) of N negatives, one value per image.

        h = e / (e + N / M),  M the number of training images

    (Tian et al. 2020, equations 17 and 18.) Computed from log e, so that nothing overflows.

    Args:
        train_examples: M.
        reduction: Keras' reduction over the images.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: Shape [B], not read: column 0 of `y_pred` is the positive.
        y_pred: log e [B, 1 + N].
    """

    def __init__(
        self, train_examples, reduction="sum_over_batch_size", name="contrastive", dtype=None
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.train_examples = train_examples

    def call(self, y_true, y_pred):
        negatives = y_pred.shape[1] - 1
        odds = y_pred - math.log(negatives / self.train_examples)
        # log h = -softplus(-odds), log(1 - h) = -softplus(odds)
        return ops.softplus(-odds[:, 0]) + ops.sum(ops.softplus(odds[:, 1:]), axis=1)


@keras.saving.register_keras_serializable("letkd_keras")
class CRD(Distiller):
    """Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, section 3).

        loss = CE + weight * (contrast of the student's embedding with the teacher's memories
                              + contrast of the teacher's embedding with the student's memories)

    An embedding is a linear map of the pooled features, l2-normalized, which starts as PyTorch's
    linear layer does. The positive is the image itself, the negatives are N images of other
    classes, compared through memory banks of all training images. RepDistiller draws the negatives
    without replacement where there are enough; here they are drawn with replacement, which has the
    same expectation.

    Images come with their rows in the training set: `fit` takes batches of
    `({"image": images, "row": integers [B]}, labels)`, as `ImageData.training_batches` gives where
    it is asked for rows. `evaluate` and `predict` take images. The banks are updated in every step;
    several replicas of a distribution strategy would each update their own, and are refused.
    Images of `sample_weight` 0 are not in the loss, but they do change their memories.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits; trained in
            place.
        labels: Classes of all training images, integers [M] in the order of the rows.
        student_layers: The student's last feature map, by name. `None` for its
            penultimate layer, as in RepDistiller.
        teacher_layers: The teacher's, likewise.
        weight: Weight of the loss; 0.8 in the paper.
        dimension: Channels of the embeddings, at least 1; 128 there.
        negatives: N, at least 1; 16384 there.
        temperature: Of the similarities, at least 0.02; 0.07 there.
        momentum: Of the memories, at least 0 and less than 1; 0.5 there.
        train_examples: M; needed only without `labels`.
        **kwargs: Further options of `Distiller`.

    Raises:
        ValueError: If the labels are missing, of one class or out of range, a layer has no feature
            map, a number is out of its range, or as `Distiller`.
    """

    # Negatives are images of other classes.
    takes_unlabelled = False
    suggested_layers = "penultimate"

    def __init__(
        self,
        teacher,
        student,
        labels=None,
        *,
        weight=0.8,
        dimension=128,
        negatives=16384,
        temperature=0.07,
        momentum=0.5,
        train_examples=None,
        **kwargs,
    ):
        super().__init__(
            teacher,
            student,
            loss_weights={"crd": non_negative_number.check(weight, "weight")},
            **kwargs,
        )
        check_feature_maps(self)
        if labels is not None and np.size(labels):
            train_examples = np.atleast_1d(labels).shape[0]
        elif train_examples is None:
            raise ValueError(
                "`labels` must be the classes of all training images, integers [M]. "
                f"Received: labels={labels!r}"
            )
        dimension = positive_integer.check(dimension, "dimension")
        (student_shape,), (teacher_shape,) = self.student_shapes, self.teacher_shapes
        self.student_embedding = _embedding(student_shape[-1], dimension, "student_embedding")
        self.teacher_embedding = _embedding(teacher_shape[-1], dimension, "teacher_embedding")
        self.student_memories = MemoryBank(
            train_examples, dimension, momentum, name="student_memories"
        )
        self.teacher_memories = MemoryBank(
            train_examples, dimension, momentum, name="teacher_memories"
        )
        self.classes = self.student.output_shape[-1]
        self.sampler = NegativeSampler(train_examples, self.classes, negatives, name="sampler")
        if labels is not None:
            self.sampler.adapt(labels)
        self.temperature = _temperature.check(temperature, "temperature")
        self.contrastive = NoiseContrastiveLoss(train_examples)

    def call(self, inputs, training=None):
        return super().call(_without_rows(inputs), training=training)

    def compute_output_shape(self, input_shape):
        return super().compute_output_shape(_without_rows(input_shape))

    def make_train_function(self, force=False):
        """Keras' compiled step; several replicas are refused.

        Raises:
            ValueError: If a `tf.distribute` strategy of several replicas is used.
        """
        strategy = getattr(self, "distribute_strategy", None)  # on TensorFlow only
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "CRD must be trained on one replica, since its memory banks are of one device. "
                f"Received: a strategy of {strategy.num_replicas_in_sync} replicas"
            )
        return super().make_train_function(force)

    def compute_teacher_outputs(self, x, y):
        """See `Distiller`; also `"rows"` [B] and `"labels"`.

        Raises:
            ValueError: If `x` is not a dictionary of images and their rows.
        """
        if not isinstance(x, dict) or not {"image", "row"} <= set(x):
            given = f"the keys {', '.join(map(str, x))}" if isinstance(x, dict) else type(x)
            raise ValueError(
                "`x` must be {'image': images, 'row': integers [B]}, as CRD compares each image "
                f"with others by its row in the training set. Received: {given}"
            )
        return {**super().compute_teacher_outputs(x["image"], y), "rows": x["row"], "labels": y}

    def compute_student_outputs(self, x):
        return super().compute_student_outputs(x["image"])

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        ((student, teacher),) = self.feature_pairs(student_outputs, teacher_outputs)
        student = self._embed(student, self.student_embedding)
        teacher = self._embed(teacher, self.teacher_embedding)
        rows = ops.cast(teacher_outputs["rows"], "int32")
        labels = class_indices(teacher_outputs["labels"], self.classes)
        drawn = ops.concatenate([rows[:, None], self.sampler(labels)], axis=1)
        loss = sum(
            self.contrastive(
                labels, memories(embedding, drawn, temperature=self.temperature), sample_weight
            )
            for embedding, memories in (
                (student, self.teacher_memories),
                (teacher, self.student_memories),
            )
        )
        self.student_memories.update(student, rows)
        self.teacher_memories.update(teacher, rows)
        return {"crd": loss}

    def _embed(self, features, embedding):
        embedded = embedding(ops.mean(features, axis=(1, 2)))
        # The memories are float32 under every dtype policy.
        return l2_normalize(ops.cast(embedded, self.student_memories.dtype), -1)

    def get_config(self):
        return {
            **super().get_config(),
            "weight": self.distillation_weights["crd"],
            "dimension": self.student_memories.dimension,
            "negatives": self.sampler.negatives,
            "temperature": self.temperature,
            "momentum": self.student_memories.momentum,
            "train_examples": self.student_memories.train_examples,
        }


def _without_rows(inputs):
    """The images of a training batch, or their shape; other inputs as they are."""
    return inputs["image"] if isinstance(inputs, dict) and "row" in inputs else inputs


def _embedding(channels, dimension, name):
    layer = keras.layers.Dense(
        dimension,
        kernel_initializer=torch_uniform(),
        bias_initializer=torch_bias_uniform(channels),
        name=name,
    )
    layer.build((None, channels))
    return layer
