import functools
import importlib
import os
from contextlib import contextmanager

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

from letkd_keras.memory_mapped import release, take

# Points are read, compared and summed in blocks of about this many bytes: enough to keep the
# matrix products busy, little beside the points themselves.
_BLOCK_BYTES = 2 << 20

# How far apart the halves of a split cluster start, relative to its center.
_SPLIT = 1 / 1024

_CORE_TYPE = "OPENBLAS_CORETYPE"

# Processors that an older OpenBLAS does not know by name, and their nearest relative that it does.
_RELATIVES = {"Cooperlake": "SkylakeX", "SapphireRapids": "SkylakeX"}


def kmeans(points, k, iterations=20, seed=0, on_iteration=None, resume=None):
    """Lloyd's k-means with faiss' exact search, over ALL the points.

    Centers start at `k` different points drawn at random. A cluster that loses its last point is
    given half of the largest one, as faiss does. Sums run in float64, block by block, so the
    points may lie in a memory-mapped file; where they lie does not change the result. With fewer
    distinct points than `k`, surplus centers lie on or next to the points and nothing fails.

    Args:
        points: float32 [N, C], an array or a `numpy.memmap`; other float types are converted
            block by block.
        k: Number of clusters, 1 to N.
        iterations: Number of passes over the points.
        seed: Seed of the draw of the first centers.
        on_iteration: Called with `(iterations done, centers)` after each pass.
        resume: `(iterations done, centers)` of an interrupted run to go on from.

    Returns:
        Centers, float32 [k, C].

    Raises:
        ValueError: If there are fewer points than clusters or a point is not finite.
    """
    if not 1 <= k <= len(points):
        raise ValueError(
            "`k` must be at least 1 and at most the number of points. "
            f"Received: k={k} for {len(points)} points"
        )
    done, centers = resume or (0, _first_centers(points, k, seed))
    if points.nbytes <= _BLOCK_BYTES:
        points = np.array(points, dtype="float32")  # read once, not at each iteration
    for number in range(done + 1, iterations + 1):
        sums = np.zeros(centers.shape, dtype="float64")
        counts = np.zeros(k, dtype="int64")
        for block in blocks(points):
            _, nearest = nearest_centers(block, centers)
            one_hot = sparse.csc_array(
                (np.ones(len(block)), nearest, np.arange(len(block) + 1)), shape=(k, len(block))
            )
            sums += one_hot @ block.astype("float64")
            counts += np.bincount(nearest, minlength=k)
        centers = centers.copy()
        filled = counts > 0
        centers[filled] = sums[filled] / counts[filled, None]
        _split_largest(centers, counts)
        if on_iteration is not None:
            on_iteration(number, centers)
    return centers


def _first_centers(points, k, seed):
    rows = np.sort(np.random.default_rng(seed).choice(len(points), size=k, replace=False))
    return take(points, rows).astype("float32")


def nearest_centers(points, centers):
    """Squared distance to and index of the nearest center, float32 [N] and int64 [N].

    Raises:
        ValueError: If a point is not finite.
    """
    distances, nearest = import_faiss().knn(points, centers, 1)
    if not np.isfinite(distances).all() or nearest.min(initial=0) < 0:
        raise ValueError("Feature vectors must be finite. Received: NaN or infinite coordinates")
    return distances[:, 0], nearest[:, 0]


@functools.cache
def import_faiss():
    """The module faiss, its matrix products made for this processor.

    faiss' Linux wheels carry an OpenBLAS of 2021. On a processor newer than itself it falls back
    on code for the oldest ones, without AVX, which makes k-means about three times slower. NumPy's
    OpenBLAS is up to date: the processor that it detected is passed on while faiss is
    loaded. An `OPENBLAS_CORETYPE` that is set in the environment is respected, and a faiss that is
    already loaded stays as it is.
    """
    detected = [
        lib["architecture"] for lib in threadpool_info() if lib["internal_api"] == "openblas"
    ]
    if not detected or _CORE_TYPE in os.environ:
        return importlib.import_module("faiss")
    os.environ[_CORE_TYPE] = _RELATIVES.get(detected[0], detected[0])
    try:
        return importlib.import_module("faiss")
    finally:
        del os.environ[_CORE_TYPE]


@contextmanager
def one_thread():
    """Within it, k-means uses one thread."""
    import_faiss()  # before the limit, which holds for what is loaded by then
    with threadpool_limits(1):
        yield


def blocks(points):
    """Consecutive rows of `points` as contiguous float32 arrays of bounded size."""
    rows = max(1024, _BLOCK_BYTES // (4 * points.shape[1]))
    for start in range(0, len(points), rows):
        yield np.ascontiguousarray(points[start : start + rows], dtype="float32")
        release(points)


def _split_largest(centers, counts):
    """Give each empty cluster half of the cluster that is largest by then, in place."""
    counts = counts.copy()
    for empty in np.flatnonzero(counts == 0):
        largest = counts.argmax()
        # Opposite steps along alternating axes, so that the halves differ by more than scale.
        step = np.where(np.arange(centers.shape[1]) % 2, _SPLIT, -_SPLIT).astype("float32")
        centers[empty] = centers[largest] * (1 + step)
        centers[largest] *= 1 - step
        counts[empty] = counts[largest] // 2
        counts[largest] -= counts[empty]
