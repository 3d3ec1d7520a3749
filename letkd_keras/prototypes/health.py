"""Figures that tell good prototypes from poor ones."""

import numpy as np
from scipy.special import entr, softmax

from letkd_keras.memory_mapped import take
from letkd_keras.prototypes.kmeans import blocks, nearest_centers
from letkd_keras.prototypes.subclasses import normalized_scores

# Points that the entropy of the penultimate targets is estimated on, evenly spread.
_ENTROPY_POINTS = 1 << 12


def penultimate_health(centers, points, labels, num_classes):
    """Health of the penultimate clusters, by one more pass over their points.

    Args:
        centers: float32 [K, C].
        points: The points clustered, [N, C].
        labels: The classes of their images, [N].
        num_classes: Number of classes.

    Returns:
        Dictionary of JSON types: `points`, `inertia_per_point` (mean squared distance to the
        nearest center), `used_templates`, `sizes` (least, median, largest), `purity` (share of
        points whose class is their cluster's most frequent), `mean_target_entropy` in nats (uniform
        targets have `log(K)`; on a part of the points) and `template_classes`, the most frequent
        class of each template, -1 where it has no points.
    """
    votes = np.zeros((len(centers), num_classes), dtype="int64")
    inertia, seen = 0.0, 0
    for block in blocks(points):
        distances, nearest = nearest_centers(block, centers)
        np.add.at(votes, (nearest, labels[seen : seen + len(block)]), 1)
        inertia += float(distances.sum(dtype="float64"))
        seen += len(block)
    sizes = votes.sum(axis=1)
    return {
        "points": seen,
        "inertia_per_point": inertia / seen,
        "used_templates": int(np.sum(sizes > 0)),
        "sizes": _spread(sizes),
        "purity": float(votes.max(axis=1).sum() / seen),
        "mean_target_entropy": _mean_target_entropy(points, centers),
        "template_classes": np.where(sizes > 0, votes.argmax(axis=1), -1).tolist(),
    }


def intermediate_health(counts, right):
    """Health of the sub-classes.

    Args:
        counts: [K, K], points by own sub-class and nearest one.
        right: Number of points whose class the LDA gets right.

    Returns:
        Dictionary of JSON types: `points`, `used_templates`, `sizes`, `subclass_purity` (share of
        points to which no sub-class of another class is nearer than their own),
        `mean_target_entropy` in nats and `lda_probe_accuracy` over single locations.
    """
    sizes = counts.sum(axis=1)
    total = int(sizes.sum())
    return {
        "points": total,
        "used_templates": int(np.sum(sizes > 0)),
        "sizes": _spread(sizes),
        "subclass_purity": float(np.trace(counts) / total),
        "mean_target_entropy": float(sizes @ entr(normalized_scores(counts)).sum(axis=1) / total),
        "lda_probe_accuracy": right / total,
    }


def _spread(sizes):
    return [int(sizes.min()), int(np.median(sizes)), int(sizes.max())]


def _mean_target_entropy(points, centers):
    """Mean entropy of the targets softmax(-||f - rho||^2)."""
    count = min(len(points), _ENTROPY_POINTS)
    rows = np.linspace(0, len(points) - 1, count).astype("int64")
    entropies = []
    for part in np.array_split(rows, max(1, len(rows) // 512)):
        block = take(points, part).astype("float64")
        logits = 2 * block @ centers.T - np.sum(centers.astype("float64") ** 2, axis=1)
        entropies.append(entr(softmax(logits, axis=1)).sum(axis=1))
    return float(np.concatenate(entropies).mean())
