import json

import numpy as np

from letkd_keras.prototypes.health import intermediate_health
from letkd_keras.prototypes.prototypes import (
    IntermediatePrototypes,
    PenultimatePrototypes,
    Prototypes,
)
from letkd_keras.prototypes.subclasses import normalised_scores


def assemble(passes, manifest, subclasses):
    """The prototypes of finished stages.

    Args:
        passes: The `TeacherPasses`, and through them teacher, taps and stages.
        manifest: What the manifest holds beside the number of images and the health figures.
        subclasses: Sub-classes of each class.

    Returns:
        `Prototypes`.
    """
    features, stages = passes.features, passes.stages
    clusters = stages.load("penultimate")
    health = {"penultimate": json.loads(clusters["health"].tobytes())}
    penultimate = PenultimatePrototypes(
        features.taps[0], features.grids[0], features.pools[0], np.array(clusters["centers"])
    )
    intermediate = None
    if passes.has_intermediate:
        intermediate, health["intermediate"] = _intermediate(passes, subclasses)
    images = int(stages.load("features")["images"].sum())
    data = {**manifest["data"], "images": images}
    return Prototypes(penultimate, intermediate, {**manifest, "data": data, "health": health})


def _intermediate(passes, subclasses):
    features, stages, projection = passes.features, passes.stages, passes.projection
    scored = stages.load("scores")
    counts = np.array(scored["counts"])
    part = IntermediatePrototypes(
        layer=features.taps[1],
        grid=features.grids[1],
        pool_size=features.pools[1],
        lda_mean=projection.mean,
        lda_scalings=projection.scalings,
        centers=np.array(stages.load("subclasses")["centers"]),
        subclass_scores=normalised_scores(counts).astype("float32"),
        num_classes=features.num_classes,
        subclasses=subclasses,
    )
    health = intermediate_health(counts, int(scored["right"]))
    health["lda_components"] = projection.scalings.shape[1]
    health["lda_components_wanted"] = passes.wanted_components
    return part, health
