import math

import keras
import numpy as np
from keras import ops

from letkd_keras.ranges import fraction, positive_integer

# Where the state of the generator of draws is in a file of weights.
_DRAWS = "draws"


class MemoryBank(keras.layers.Layer):
    """The embedding of every training image by one network, as it was last seen (Wu et al. 2018).

    Its memories and the normalizer Z are weights, though not trained: they are saved and resumed.

    Args:
        train_examples: Number M of training images.
        dimension: Channels of an embedding.
        momentum: Share of the old memory that an update keeps, at least 0 and less than 1; 0.5 in
            Wu et al. and RepDistiller.
        **kwargs: Keras' layer arguments.

    Call arguments:
        embeddings: Embeddings of a batch by the other network, [B, dimension], of length 1.
        rows: Integers [B, 1 + N], training images to compare each of them with.
        temperature: Divides the inner products.

    Returns:
        log(exp(inner product / temperature) / Z) [B, 1 + N].

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, train_examples, dimension, momentum=0.5, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.train_examples = positive_integer.check(train_examples, "train_examples")
        self.dimension = positive_integer.check(dimension, "dimension")
        self.momentum = fraction.check(momentum, "momentum")
        bound = math.sqrt(3 / self.dimension)  # of length 1 on average
        self.memories = self.add_weight(
            name="memories",
            shape=(self.train_examples, self.dimension),
            initializer=keras.initializers.RandomUniform(-bound, bound),
            trainable=False,
        )
        self.normalizer = self.add_weight(
            name="normalizer", shape=(), initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, embeddings, rows, temperature):
        # Computing all products costs much less than gathering 16,385 memories for each image.
        products = ops.matmul(embeddings, ops.transpose(self.memories))
        scores = ops.take_along_axis(products, rows, axis=1) / temperature
        return scores - ops.log(self._normalizer(scores))

    def _normalizer(self, scores):
        """Z, a constant: M times the mean of the first batch (Wu et al. 2018, equation 8)."""
        estimate = self.train_examples * ops.mean(ops.exp(ops.stop_gradient(scores)))
        before = ops.convert_to_tensor(self.normalizer)  # JAX selects from no variable
        z = ops.where(before > 0, before, estimate)
        self.normalizer.assign(z)
        return z

    def update(self, embeddings, rows):
        """Move the memories of the images `rows` [B] toward their embeddings [B, dimension]."""
        old = ops.take(self.memories, rows, axis=0)
        new = self.momentum * old + (1 - self.momentum) * embeddings
        new = ops.normalize(new, axis=-1)
        memories = ops.convert_to_tensor(self.memories)
        self.memories.assign(ops.scatter_update(memories, rows[:, None], new))


class NegativeSampler(keras.layers.Layer):
    """Draws training images of other classes than an image's own, each as likely.

    Args:
        train_examples: Number M of training images.
        classes: Number of classes.
        negatives: Number N drawn for an image, with replacement.
        seed: Seed of the draws.
        **kwargs: Keras' layer arguments.

    Call arguments:
        labels: Classes of a batch, integers [B].

    Returns:
        Integers [B, N], rows of the training set.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, train_examples, classes, negatives, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.train_examples = positive_integer.check(train_examples, "train_examples")
        self.classes = positive_integer.check(classes, "classes")
        self.negatives = positive_integer.check(negatives, "negatives")
        self.seed_generator = keras.random.SeedGenerator(seed)
        integers = {"initializer": "zeros", "dtype": "int32", "trainable": False}
        self.order = self.add_weight(name="order", shape=(self.train_examples,), **integers)
        self.starts = self.add_weight(name="starts", shape=(self.classes,), **integers)
        self.counts = self.add_weight(name="counts", shape=(self.classes,), **integers)
        self.built = True

    def adapt(self, labels):
        """Set which rows are of which class.

        Args:
            labels: Classes of all training images, integers [M] in the order of the rows.

        Raises:
            ValueError: If labels are not such integers, out of range or all the same.
        """
        labels = np.asarray(labels)
        expected = (
            f"`labels` must be {self.train_examples} integers below {self.classes}, the classes"
        )
        if labels.shape != (self.train_examples,) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{expected}. Received: an array of shape {labels.shape} and type {labels.dtype}"
            )
        if labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(f"{expected}. Received: from {labels.min()} to {labels.max()}")
        counts = np.bincount(labels, minlength=self.classes)
        if counts.max() == len(labels):
            raise ValueError("`labels` must be of two classes at least. Received: one")
        self.order.assign(np.argsort(labels, kind="stable"))
        self.starts.assign(np.cumsum(counts) - counts)
        self.counts.assign(counts)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras saves no generator: a loaded distiller would draw others than one that goes on.
        store[_DRAWS] = ops.convert_to_numpy(self.seed_generator.state)

    def load_own_variables(self, store):
        self.seed_generator.state.assign(np.array(store[_DRAWS]))
        names = set(store.keys()) - {_DRAWS}
        super().load_own_variables({name: store[name] for name in names})

    def call(self, labels):
        # The rows are sorted by class: those of the other classes lie before and after its own.
        start, count = (ops.take(v, labels)[:, None] for v in (self.starts, self.counts))
        draws = keras.random.uniform(
            (ops.shape(labels)[0], self.negatives), seed=self.seed_generator, dtype="float32"
        )
        others = ops.cast(self.train_examples - count, "float32")
        position = ops.minimum(ops.cast(draws * others, "int32"), self.train_examples - count - 1)
        return ops.take(self.order, ops.where(position < start, position, position + count))
