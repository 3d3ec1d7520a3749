import json
import logging

import numpy as np

from letkd_keras.prototypes.health import penultimate_health
from letkd_keras.prototypes.kmeans import kmeans

_log = logging.getLogger(__name__)


def cluster_penultimate(passes, stage, templates, iterations, seed, progress):
    """The k-means of the penultimate points, resumed after its last finished iteration.

    Args:
        passes: The `TeacherPasses`, whose pass `features` is finished.
        stage: Name of the stage under which iterations are kept.
        templates: Number of clusters K.
        iterations: Number of iterations.
        seed: Seed of the first centres.
        progress: Where it is shown.

    Returns:
        Arrays of the stage: `centers`, float32 [K, C], and `health`, JSON as bytes.

    Raises:
        ValueError: If there are fewer points than clusters, or non-finite ones.
    """
    stages, features = passes.stages, passes.features
    gathered = stages.load("features")
    points = gathered["points"]
    total = int(gathered["images"].sum()) * features.locations(0)
    check_points(len(points), templates)
    if len(points) < total:
        _log.warning(
            "k-means takes a sample of %d of the %d feature vectors: `memory` or a `cache` makes "
            "room for more.",
            len(points),
            total,
        )
    task = progress.add_task("penultimate: k-means", total=iterations)
    last = stages.load_checkpoint(stage)

    def on_iteration(iteration):
        stages.save_checkpoint(stage, vars(iteration))
        progress.update(task, completed=iteration.number)

    centers = kmeans(
        points,
        templates,
        iterations,
        seed,
        on_iteration,
        resume=(int(last["number"]), last["centers"]) if last else None,
    )
    health = penultimate_health(centers, points, gathered["labels"], features.num_classes)
    health["all_points"] = total
    return {"centers": centers, "health": np.frombuffer(json.dumps(health).encode(), "uint8")}


def check_points(points, templates):
    """Raise a `ValueError` if there are fewer points than clusters."""
    if points < templates:
        raise ValueError(
            "There must be at least as many feature vectors as clusters. "
            f"Received: templates={templates} for {points} feature vectors"
        )
