"""Pictures of what was learned, drawn from prototypes: PNG files, no screen needed."""

from pathlib import Path

from letkd_keras.files import open_atomic
from letkd_keras.prototypes.confusion_picture import draw_confusion
from letkd_keras.prototypes.subclass_map_picture import draw_subclass_maps
from letkd_keras.prototypes.template_picture import draw_templates


def draw(prototypes, folder, teacher=None, data=None, samples=6):
    """Draw all pictures that can be drawn.

    `templates.png`: the templates in two dimensions (t-SNE, or PCA where they are few), coloured by
    class. `confusion.png`: which classes the teacher confuses, by `subclass_scores`.
    `subclass_maps.png`: which sub-class each location of some images belongs to and what the
    teacher confuses it with (as figure 2 of the paper's supplement); it needs teacher and data.

    Args:
        prototypes: `Prototypes`.
        folder: Folder of the PNG files; made if missing.
        teacher: The `keras.Model` that they belong to, or `None`.
        data: `(images, labels, preprocess, class_names)` as `open_data` gives it, or `None`.
        samples: Number of images in `subclass_maps.png`.

    Returns:
        Paths of the files written.

    Raises:
        ValueError: If the prototypes belong to another teacher.
    """
    names = prototypes.manifest.get("data", {}).get("class_names")
    if data is not None and data[3] is not None:
        names = data[3]
    pictures = {"templates": draw_templates(prototypes, names)}
    if prototypes.intermediate is not None:
        pictures["confusion"] = draw_confusion(prototypes.intermediate, names)
        if teacher is not None and data is not None:
            prototypes.check_teacher(teacher)
            pictures["subclass_maps"] = draw_subclass_maps(
                prototypes.intermediate, teacher, data, names, samples
            )
    paths = [Path(folder) / f"{name}.png" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        with open_atomic(path) as file:
            figure.savefig(file, format="png", dpi=120)
    return paths
