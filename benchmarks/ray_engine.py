"""Time of a pass of the teacher in this process, and on actors of Ray.

    python benchmarks/ray_engine.py --engines local ray:1 ray:2

The teacher is a network of the zoo with random weights; the images are random. One JSON line an
engine: `start_seconds` until the first batch is merged (the actors start, import TensorFlow and
load the teacher, and work ahead), `seconds` of the whole pass, and `same`: whether points and sums
are those of the first engine, to the bit.

    python benchmarks/ray_engine.py --memory 2048 --batch-size 256

What an actor needs for feature maps of 7x7 locations and so many channels at both levels,
and 1000 classes. `kept` is the share of the points that the sample keeps; `peak_mib` is above what
the process held before.
"""

import argparse
import json
import pickle
import resource
import time

import keras
import numpy as np

from letkd_keras.models import build
from letkd_keras.prototypes.engines import make_engine
from letkd_keras.prototypes.labelled_images import LabelledImages
from letkd_keras.prototypes.passes import FeatureGatherer
from letkd_keras.prototypes.points import PointSample
from letkd_keras.prototypes.teacher_features import TeacherFeatures

CLASSES = 100


def main():
    options = _parser().parse_args()
    if options.memory:
        _measure_memory(options.memory, options.batch_size, options.kept)
        return
    teacher = build(options.network, CLASSES)
    layers = {"penultimate": options.penultimate, "intermediate": options.intermediate}
    features = TeacherFeatures(teacher, layers)
    r = np.random.default_rng(0)
    x = r.standard_normal((options.images, *teacher.input_shape[1:]), dtype="float32")
    y = r.integers(0, CLASSES, options.images)
    features(x[: options.batch_size])  # traced once: the actors' tracing is part of their start
    first = None
    for name in options.engines:
        kind, _, workers = name.partition(":")
        line, arrays = _measure(kind, int(workers or 0) or None, features, (x, y), options)
        first = first or arrays
        line["same"] = all(np.array_equal(first[key], arrays[key]) for key in first)
        print(json.dumps({"engine": name, **line}), flush=True)


def _measure(kind, workers, features, data, options):
    images = LabelledImages(data, CLASSES, options.batch_size)
    points = PointSample(options.points, features.channels["penultimate"])
    gatherer = FeatureGatherer(features, points)
    begin = time.perf_counter()
    with make_engine(kind, workers) as engine:
        passed = engine.run(features, images, gatherer)
        next(passed)
        start = time.perf_counter()
        for _ in passed:
            pass
        end = time.perf_counter()
    line = {"start_seconds": round(start - begin, 1), "seconds": round(end - begin, 1)}
    return line, gatherer.result()


def _measure_memory(channels, batch_size, kept):
    inputs = keras.Input((14, 14, 3))
    x = keras.layers.Conv2D(channels, 1, 2, activation="relu", name="end")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    teacher = keras.Model(inputs, keras.layers.Dense(1000)(x))
    features = TeacherFeatures(teacher, {"penultimate": "end", "intermediate": "end"})
    total = 50 * batch_size * features.locations("penultimate")
    points = PointSample(int(kept * total), channels, total=total)
    gatherer = FeatureGatherer(features, points)
    features(np.zeros((2, 14, 14, 3), "float32"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    r = np.random.default_rng(0)
    for number in range(3):
        images = r.standard_normal((batch_size, 14, 14, 3), dtype="float32")
        labels = r.integers(0, 1000, batch_size)
        summary = gatherer.summarize(number * batch_size, labels, features(images))
        pickle.dumps((summary, labels), protocol=5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"channels": channels, "kept": kept, "peak_mib": round(peak / 1024)}))


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engines", nargs="+", default=["local", "ray:1", "ray:2"], metavar="NAME[:WORKERS]")
    add("--network", default="resnet56")
    add("--penultimate", default="penultimate")
    add("--intermediate", default="intermediate")
    add("--images", type=int, default=6400)
    add("--batch-size", type=int, default=128)
    add("--points", type=int, default=100_000, help="points that the sample has room for")
    add("--memory", type=int, metavar="CHANNELS", help="measure the memory of an actor instead")
    add("--kept", type=float, default=1.0, help="share of the points that the sample keeps")
    return parser


if __name__ == "__main__":
    main()
