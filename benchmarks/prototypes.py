"""Time and memory of the steps that make prototypes, beside their peers. See `--help`.

One JSON line a step and size: `step`, `points`, `channels`, `seconds`, `cpu_seconds` (of all
threads), `peak_mib` (of the process, above what it held after its imports), `peer`, `peer_seconds`,
`peer_cpu_seconds`, `peer_peak_mib` and what else the step tells. Each side of a line runs in a
process of its own, on the same synthetic features: classes of overlapping, rectified clusters, 64
locations an image. Making the features is not timed. On a busy machine, compare the processor
time of runs with `--threads 1`.

steps and peers
  lda            statistics and solution, block by block   scikit-learn, all points in memory
  cache          all points into a memory-mapped file      none
  kmeans         all points from that file                 faiss.Kmeans, all points in memory
  kmeans_sample  on what fits into --sample-memory         kmeans on all points
  subclasses     all classes from a memory-mapped file     faiss.Kmeans for each class in memory
  scores         block by block                            a loop over (at most 50,000) points

CIFAR-100 through a ResNet-56 has 50,000 x 64 points of 64 channels, which are fraction 1. For the
classes and channels of ImageNet through a ResNet-50, on parts of its 62.8 million points:

    python benchmarks/prototypes.py --classes 1000 --width 2048 --wide-points 0 --no-peers \
        --steps lda kmeans --fractions 1/50 1/5 --iterations 1
    python benchmarks/prototypes.py --classes 1000 --width 2048 --wide-points 0 --no-peers \
        --steps subclasses scores --fractions 1/50 1/5
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

STEPS = ("lda", "cache", "kmeans", "kmeans_sample", "subclasses", "scores")
LOCATIONS, BLOCK_VALUES = 64, 1 << 20
COMPONENTS, SUBCLASSES = 60, 8
LOOP_POINTS = 50_000


def main():
    options = _parser().parse_args()
    if options.one is not None:
        print(json.dumps(_measure(options)))
        return
    sizes = [(int(50_000 * fraction) * LOCATIONS, options.width) for fraction in options.fractions]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for points, channels in sizes:
            for step in options.steps:
                _line(options, folder, step, points, channels)
    if options.wide_points and "lda" in options.steps:
        _line(options, None, "lda", options.wide_points, 2048)


def _line(options, folder, step, points, channels):
    """Run both sides of a step, each in a process of its own, and print the line."""
    environment = dict(os.environ)
    if options.threads is not None:
        for library in ("OMP", "OPENBLAS", "MKL"):
            environment[f"{library}_NUM_THREADS"] = str(options.threads)
    cache = folder and Path(folder) / f"{points}x{channels}"

    def run(name):
        command = [sys.executable, __file__, "--one", name, "--points", str(points)]
        command += ["--channels", str(channels), "--cache", str(cache)]
        for option in ("templates", "iterations", "sample_memory", "classes"):
            command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
        if options.no_peers:
            command += ["--no-peers"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
        return json.loads(done.stdout)

    if step.startswith("kmeans") and not (cache / "points.npy").exists():
        run("cache")
    line = {"step": step, "points": points, "channels": channels, **run(step)}
    line["peer"] = PEERS.get(step)
    if step == "kmeans_sample" and (cache / "kmeans.json").exists():
        peer = json.loads((cache / "kmeans.json").read_text())
    elif line["peer"] is None or options.no_peers:
        peer = {}
    else:
        peer = run("kmeans" if step == "kmeans_sample" else f"{step}-peer")
    line.update({f"peer_{name}": peer.get(name) for name in ("seconds", "peak_mib", *peer)})
    if peer:
        for time_of in ("seconds", "cpu_seconds"):
            rate = line[f"peer_{time_of}"] / peer.get("points", points)
            line[f"times_faster_{time_of}"] = rate / (line[time_of] / points)
        if "inertia" in peer:
            line["inertia_loss"] = line["inertia"] / peer["inertia"] - 1
    print(
        json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}),
        flush=True,
    )


# === One side of a step, in a process of its own ===

PEERS = {
    "lda": "scikit-learn",
    "kmeans": "faiss",
    "kmeans_sample": "kmeans",
    "subclasses": "faiss",
    "scores": "loop",
}


class Clock:
    """Seconds spent in its `with` blocks."""

    seconds = cpu_seconds = 0.0

    def __enter__(self):
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_):
        self.seconds += time.perf_counter() - self._start[0]
        self.cpu_seconds += time.process_time() - self._start[1]


def _measure(options):
    side = globals()[f"_{options.one.replace('-', '_')}"]
    import keras  # noqa: F401
    import sklearn.discriminant_analysis  # noqa: F401

    import letkd_keras.prototypes.fit  # noqa: F401
    from letkd_keras.prototypes.kmeans import import_faiss

    if options.one.endswith("-peer"):
        import faiss  # noqa: F401  as it loads by itself
    else:
        import_faiss()
    clock, before = Clock(), _peak_mib()
    found = side(options, clock) or {}
    times = {"seconds": clock.seconds, "cpu_seconds": clock.cpu_seconds}
    found = {**times, "peak_mib": _peak_mib() - before, **found}
    if options.one == "kmeans":
        (Path(options.cache) / "kmeans.json").write_text(json.dumps(found))
    return found


def _lda(options, clock):
    from letkd_keras.prototypes.lda import LinearDiscriminantAnalysis

    lda = LinearDiscriminantAnalysis(options.classes, options.channels)
    for _, points, labels in _stream(options, options.channels):
        with clock:
            lda.update(points, labels)
    with clock:
        lda.solve(COMPONENTS)


def _lda_peer(options, clock):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    points, labels = _in_memory(options, options.points, options.channels)
    with clock:
        LinearDiscriminantAnalysis(solver="svd").fit(points, labels)


def _cache(options, clock):
    from letkd_keras.prototypes.points import PointCache

    folder = Path(options.cache)
    folder.mkdir(exist_ok=True)
    cache = PointCache(folder, options.points, options.channels)
    for rows, points, labels in _stream(options, options.channels):
        with clock:
            cache.update(points, labels, rows)
    with clock:
        cache.sorted()[0].flush()


def _kmeans(options, clock):
    import numpy as np

    from letkd_keras.prototypes.kmeans import kmeans

    points = np.load(Path(options.cache) / "points.npy", mmap_mode="r")
    with clock:
        centers = kmeans(points, options.templates, options.iterations)
    # One more pass over all points, which only a comparison needs.
    return {} if options.no_peers else {"inertia": _inertia(options, centers)}


def _kmeans_peer(options, clock):
    import faiss

    points, _ = _in_memory(options, options.points, options.channels)
    kmeans = faiss.Kmeans(
        options.channels,
        options.templates,
        niter=options.iterations,
        max_points_per_centroid=len(points),
    )
    with clock:
        kmeans.train(points)
    return {"inertia": _inertia(options, kmeans.centroids)}


def _kmeans_sample(options, clock):
    from letkd_keras.prototypes.kmeans import kmeans
    from letkd_keras.prototypes.points import PointSample

    capacity = PointSample.fitting(options.sample_memory, options.channels)
    sample = PointSample(capacity, options.channels)
    for rows, points, labels in _stream(options, options.channels):
        with clock:
            sample.update(points, labels, rows)
    with clock:
        points, _ = sample.sorted()
        centers = kmeans(points, options.templates, options.iterations)
    return {"sample": len(points), "inertia": _inertia(options, centers)}


def _inertia(options, centers):
    """Mean squared distance of all points to the nearest of any centers, not timed."""
    from letkd_keras.prototypes.kmeans import nearest_centers

    total = 0.0
    for _, points, _ in _stream(options, options.channels):
        total += float(nearest_centers(points, centers)[0].sum(dtype="float64"))
    return total / options.points


def _subclasses(options, clock):
    import numpy as np

    from letkd_keras.prototypes.points import PointCache
    from letkd_keras.prototypes.subclasses import fit_subclasses

    # Each class has its images in turn: as many points as the rest leaves.
    images = -(-options.points // LOCATIONS)
    classes = options.classes
    sizes = (images // classes + (np.arange(classes) < images % classes)) * LOCATIONS
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        cache = PointCache(Path(folder), sizes, COMPONENTS)
        for rows, points, labels in _stream(options, COMPONENTS):
            cache.update(points, labels, rows)
        points, _ = cache.sorted(by_class=True)
        with clock:
            fit_subclasses(points, sizes, SUBCLASSES, options.iterations)


def _subclasses_peer(options, clock):
    import faiss
    import numpy as np

    points, labels = _in_memory(options, options.points, COMPONENTS)
    with clock:
        for label in range(options.classes):
            own = np.ascontiguousarray(points[labels == label])
            kmeans = faiss.Kmeans(
                COMPONENTS, SUBCLASSES, niter=options.iterations, max_points_per_centroid=len(own)
            )
            kmeans.train(own)


def _scores(options, clock):
    import numpy as np

    from letkd_keras.prototypes.subclasses import NearestSubclasses, normalized_scores

    centers = _subclass_centers(options)
    nearest = NearestSubclasses(centers, options.classes)
    counts = np.zeros((len(centers), len(centers)), int)
    for _, points, labels in _stream(options, COMPONENTS):
        with clock:
            np.add.at(counts, nearest(points, labels), 1)
    with clock:
        normalized_scores(counts)


def _scores_peer(options, clock):
    """The method, word by word: for each point, its own sub-class, the nearest, a count."""
    import numpy as np

    centers, size = _subclass_centers(options), min(options.points, LOOP_POINTS)
    points, labels = _in_memory(options, size, COMPONENTS)
    counts = np.zeros((len(centers), len(centers)))
    with clock:
        for point, label in zip(points, labels, strict=True):
            distances = np.sum((centers - point) ** 2, axis=1)
            own = label * SUBCLASSES
            own += distances[own : own + SUBCLASSES].argmin()
            counts[own, distances.argmin()] += 1
        counts /= counts.sum(axis=1, keepdims=True).clip(1)
    return {"points": size}


# === Features ===


def _stream(options, channels, size=None):
    """Blocks of `(rows, points, labels)`, the same whatever consumes them."""
    import numpy as np

    size = size or options.points
    clusters = max(1, 1600 // options.classes)
    shape = (options.classes * clusters, channels)
    means = np.random.default_rng(0).standard_normal(shape, dtype="float32")
    length = BLOCK_VALUES // channels
    for block, start in enumerate(range(0, size, length)):
        r = np.random.default_rng([1, block])
        rows = np.arange(start, min(start + length, size))
        labels = _labels(options, start, rows[-1] + 1)
        points = r.standard_normal((len(rows), channels), dtype="float32")
        points *= 0.7
        points += means[labels * clusters + r.integers(clusters, size=len(rows))]
        yield rows, np.maximum(points, -0.2, out=points), labels


def _labels(options, start, stop):
    import numpy as np

    return np.arange(start, stop) // LOCATIONS % options.classes


def _in_memory(options, size, channels):
    import numpy as np

    points = np.empty((size, channels), "float32")
    for rows, block, _ in _stream(options, channels, size):
        points[rows[0] : rows[-1] + 1] = block
    return points, _labels(options, 0, size)


def _subclass_centers(options):
    import numpy as np

    points, labels = _in_memory(options, options.classes * LOCATIONS, COMPONENTS)
    order = np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[order], np.arange(options.classes))
    return points[order[(first[:, None] + np.arange(SUBCLASSES)).ravel()]]


def _peak_mib():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", nargs="+", choices=STEPS, default=STEPS)
    add("--fractions", nargs="*", type=Fraction, default=[Fraction(1, n) for n in (16, 4, 1)])
    add("--classes", type=int, default=100, help="(%(default)s)")
    add("--width", type=int, default=64, help="channels of the features (%(default)s)")
    add("--wide-points", type=int, default=200_000, help="of 2048 channels, lda only; 0: none")
    add("--templates", type=int, default=4096, help="centers of kmeans (%(default)s)")
    add("--iterations", type=int, default=20, help="of each k-means (%(default)s)")
    add("--sample-memory", type=int, default=48 << 20, help="bytes, kmeans_sample (%(default)s)")
    add("--threads", type=int, help="of the libraries (default: their own)")
    add("--no-peers", action="store_true")
    add("--folder", help="where files of features lie meanwhile (default: the system's)")
    for name in ("one", "cache"):
        add(f"--{name}", help=argparse.SUPPRESS)
    for name in ("points", "channels"):
        add(f"--{name}", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
