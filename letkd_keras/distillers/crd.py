import math

import keras
from keras import ops

from letkd_keras.distillers.memory_bank import MemoryBank, NegativeSampler
from letkd_keras.distillers.teacher_distiller import TeacherDistiller


@keras.saving.register_keras_serializable("letkd_keras")
class NoiseContrastiveLoss(keras.losses.Loss):
    """-log h of the positive minus the sum of log(1 - h) of N negatives, one value an image.

        h = e / (e + N / M),  M the number of training images

    (Tian et al. 2020, equations 17 and 18.) Computed from log e, so that nothing overflows.

    Args:
        images: M.
        reduction: Keras' reduction over the images.
        name: Name of the loss.
        dtype: Dtype of the computation.

    Call arguments:
        y_true: Shape [B], not read: column 0 of `y_pred` is the positive.
        y_pred: log e [B, 1 + N].
    """

    def __init__(self, images, reduction="sum_over_batch_size", name="contrastive", dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.images = images

    def call(self, y_true, y_pred):
        negatives = y_pred.shape[1] - 1
        odds = y_pred - math.log(negatives / self.images)
        # log h = -softplus(-odds), log(1 - h) = -softplus(odds)
        return ops.softplus(-odds[:, 0]) + ops.sum(ops.softplus(odds[:, 1:]), axis=1)

    def get_config(self):
        return {**super().get_config(), "images": self.images}


@keras.saving.register_keras_serializable("letkd_keras")
class CRD(TeacherDistiller):
    """Contrastive representation distillation (Tian, Krishnan, Isola, ICLR 2020, section 3).

        loss = CE + weight * (contrast of the student's embedding with the teacher's memories
                              + contrast of the teacher's embedding with the student's memories)

    An embedding is a linear map of the pooled features, l2-normalised. The positive is the image
    itself, the negatives are N images of other classes, compared through memory banks of all
    training images. RepDistiller draws the negatives without replacement where there are enough;
    here they are drawn with, which has the same expectation.

    Images come with their rows in the training set: `fit` takes batches of
    `({"image": images, "row": integers [B]}, labels [B])`, which
    `ImageData.training_batches(rows=True)` gives. `evaluate` and `predict` take images. The banks
    are updated in every step and are of one device: not for a distribution strategy.

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes.
        labels: Classes of all training images, integers [M] in the order of the rows.
        student_layers: The student's last feature map, in a tuple of one.
        teacher_layers: The teacher's, likewise.
        weight: Weight of the loss; 0.8 in the paper.
        dimension: Channels of the embeddings; 128 there.
        negatives: N; 16384 there.
        temperature: Of the similarities; 0.07 there.
        momentum: Of the memories; 0.5 there.
        images: M; needed only without `labels`.
        **kwargs: Further options of `TeacherDistiller`.

    Raises:
        ValueError: If the labels are of one class or out of range, or as `TeacherDistiller`.
    """

    def __init__(
        self,
        student,
        teacher=None,
        labels=None,
        *,
        weight=0.8,
        dimension=128,
        negatives=16384,
        temperature=0.07,
        momentum=0.5,
        images=None,
        **kwargs,
    ):
        super().__init__(student, teacher, {"crd": weight}, **kwargs)
        images = images if labels is None else len(labels)
        (ours,), (theirs,) = self.student_shapes, self.teacher_shapes
        self.student_embedding = _embedding(ours[-1], dimension, "student_embedding")
        self.teacher_embedding = _embedding(theirs[-1], dimension, "teacher_embedding")
        self.student_memories = MemoryBank(images, dimension, momentum, name="student_memories")
        self.teacher_memories = MemoryBank(images, dimension, momentum, name="teacher_memories")
        classes = self.student.output_shape[-1]
        self.sampler = NegativeSampler(images, classes, negatives, name="sampler")
        if labels is not None:
            self.sampler.adapt(labels)
        self.temperature = float(temperature)
        self.contrastive = NoiseContrastiveLoss(images)

    def call(self, inputs, training=None):
        images = inputs["image"] if isinstance(inputs, dict) else inputs
        return super().call(images, training=training)

    def teach(self, x, y):
        return {**super().teach(x["image"], y), "rows": x["row"]}

    def learn(self, x):
        return super().learn(x["image"])

    def distillation_losses(self, learned, taught, sample_weight=None):
        ((ours, theirs),) = self.tap_pairs(learned, taught)
        ours = self._embed(ours, self.student_embedding)
        theirs = self._embed(theirs, self.teacher_embedding)
        rows = ops.cast(taught["rows"], "int32")
        labels = ops.cast(ops.reshape(taught["labels"], (-1,)), "int32")
        drawn = ops.concatenate([rows[:, None], self.sampler(labels)], axis=1)
        loss = sum(
            self.contrastive(
                labels, memories(embedding, drawn, temperature=self.temperature), sample_weight
            )
            for embedding, memories in (
                (ours, self.teacher_memories),
                (theirs, self.student_memories),
            )
        )
        self.student_memories.update(ours, rows)
        self.teacher_memories.update(theirs, rows)
        return {"crd": loss}

    def _embed(self, features, embedding):
        return ops.normalize(embedding(ops.mean(features, axis=(1, 2))), axis=-1)

    def get_config(self):
        return {
            **super().get_config(),
            "weight": self.distillation_weights["crd"],
            "dimension": self.student_memories.dimension,
            "negatives": self.sampler.negatives,
            "temperature": self.temperature,
            "momentum": self.student_memories.momentum,
            "images": self.student_memories.images,
        }


def _embedding(channels, dimension, name):
    # PyTorch's start of a linear layer.
    bound = 1 / math.sqrt(channels)
    uniform = keras.initializers.RandomUniform(-bound, bound)
    layer = keras.layers.Dense(
        dimension, kernel_initializer=uniform, bias_initializer=uniform, name=name
    )
    layer.build((None, channels))
    return layer
