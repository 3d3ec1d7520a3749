import numpy as np
from scipy import linalg, sparse

# The paper's number of components for a number of classes too small for the one asked for.
_PUBLISHED_COMPONENTS = {10: 8}

# Directions whose spread within classes is below this, after each channel is scaled to spread 1,
# are left out; scikit-learn's default.
_TOLERANCE = 1e-4

# Bytes of the points, in float64, that are added at a time: some copies of them are made.
_BLOCK_BYTES = 32 << 20


class LinearDiscriminantAnalysis:
    """Linear discriminant analysis from sufficient statistics, exact in one pass.

    Holds the count and mean of each class and the scatter within classes, in float64, updated and
    merged by the rule of Chan, Golub and LeVeque: every difference is taken from the mean of its
    own class, so large offsets cost no digits. The solution is that of
    `sklearn.discriminant_analysis.LinearDiscriminantAnalysis` (solver "svd": `xbar_` and
    `scalings_`) up to the sign of each column; versions that divide the scatter by points -
    classes rather than by points differ by that common factor, which no nearest center feels.

    Args:
        num_classes: Number of classes.
        channels: Number of channels C.

    Attributes:
        counts: Points of each class, int64 [num_classes].
        means: Mean of each class, float64 [num_classes, C].
        scatter: Sum over all points of the outer square of the difference from the mean of their
            class, float64 [C, C].
    """

    def __init__(self, num_classes, channels):
        self.counts = np.zeros(num_classes, dtype="int64")
        self.means = np.zeros((num_classes, channels), dtype="float64")
        self.scatter = np.zeros((channels, channels), dtype="float64")

    def update(self, features, labels):
        """Add points.

        Args:
            features: [N, C], any float type.
            labels: Integers [N].
        """
        rows = max(1, _BLOCK_BYTES // (8 * self.means.shape[1]))
        for start in range(0, len(features), rows):
            block = slice(start, start + rows)
            self._add(np.asarray(features[block], dtype="float64"), labels[block])

    def _add(self, features, labels):
        classes, members = np.unique(np.asarray(labels), return_inverse=True)
        counts = np.bincount(members)
        one_hot = sparse.csc_array(
            (np.ones(len(members)), members, np.arange(len(members) + 1)),
            shape=(len(classes), len(members)),
        )
        # Sums of differences from a point of the batch, not of the raw values: an offset cancels
        # before it is added up.
        shift = features[0]
        features = features - shift
        means = (one_hot @ features) / counts[:, None]
        features -= means[members]
        self._merge(classes, counts, means + shift, features.T @ features)

    def state(self):
        """The sufficient statistics, as a dictionary of arrays."""
        return {"counts": self.counts, "means": self.means, "scatter": self.scatter}

    def merge(self, state):
        """Add the `state()` of another accumulator, of other points of these classes."""
        counts, means = np.asarray(state["counts"]), np.asarray(state["means"])
        classes = np.flatnonzero(counts)
        self._merge(classes, counts[classes], means[classes], np.asarray(state["scatter"]))

    def _merge(self, classes, counts, means, scatter):
        total = self.counts[classes] + counts
        difference = means - self.means[classes]
        between = difference * np.sqrt(self.counts[classes] * counts / total)[:, None]
        self.scatter += scatter + between.T @ between
        self.means[classes] += difference * (counts / total)[:, None]
        self.counts[classes] = total

    def solve(self, components):
        """Solve for the discriminant directions.

        Args:
            components: Number of directions wanted. Fewer are returned where the statistics have
                no more: at most classes - 1, and none along which points of a class do not differ
                (constant channels, fewer points than channels).

        Returns:
            `(mean, scalings)`, float64 [C] and [C, d]: `z = (f - mean) @ scalings`.

        Raises:
            ValueError: If there are fewer than two classes with points, non-finite features, or no
                direction that separates the classes.
        """
        present = np.flatnonzero(self.counts)
        points = int(self.counts.sum())
        if len(present) < 2:
            raise ValueError(
                "LDA needs points of at least two classes. "
                f"Received: {points} points of {len(present)} classes"
            )
        if not (np.isfinite(self.scatter).all() and np.isfinite(self.means).all()):
            raise ValueError("LDA needs finite features. Received: NaN or infinite features")
        counts, means = self.counts[present], self.means[present]
        mean = counts @ means / points

        # Sphere the scatter within classes, channels scaled to spread 1 first.
        spread = np.sqrt(np.diag(self.scatter) / points)
        spread[spread == 0] = 1
        within = self.scatter / np.outer(spread, spread) / points
        variances, directions = linalg.eigh(within)
        kept = variances > _TOLERANCE**2
        sphering = directions[:, kept] / spread[:, None] / np.sqrt(variances[kept])

        # Principal directions of the class means there.
        weights = np.sqrt(counts / (len(present) - 1))
        between = ((means - mean) * weights[:, None]) @ sphering
        _, strengths, rotation = linalg.svd(between, full_matrices=False)
        rank = int(np.sum(strengths > _TOLERANCE * strengths.max(initial=0)))
        if rank == 0:
            raise ValueError(
                "LDA has no direction that separates the classes: features do not vary within "
                "classes, or all class means agree."
            )
        return mean, sphering @ rotation[: min(rank, components)].T


class Projection:
    """Features into the space of a solved LDA, and its own decisions there.

    Args:
        lda: A `LinearDiscriminantAnalysis` with all its points.
        components: Number of components wanted.

    Attributes:
        mean: float32 [C].
        scalings: float32 [C, d].
        class_means: Means of the classes in that space, float32 [classes, d].
    """

    def __init__(self, lda, components):
        mean, scalings = lda.solve(components)
        self.mean, self.scalings = mean.astype("float32"), scalings.astype("float32")
        self.class_means = ((lda.means - mean) @ scalings).astype("float32")
        with np.errstate(divide="ignore"):
            priors = np.log(lda.counts / lda.counts.sum())
        self._biases = (priors - np.sum(self.class_means**2, axis=1) / 2).astype("float32")

    def __call__(self, features):
        """Features [N, C] to float32 [N, d]."""
        return (features - self.mean) @ self.scalings

    def classify(self, points):
        """The class that LDA, with these components, gives each projected point, [N]."""
        return np.argmax(points @ self.class_means.T + self._biases, axis=1)


def lda_components(components, num_classes, channels):
    """Number of LDA components: what is asked for, or what the classes and channels give."""
    if components > num_classes - 1:
        components = _PUBLISHED_COMPONENTS.get(num_classes, num_classes - 1)
    return min(components, channels)
