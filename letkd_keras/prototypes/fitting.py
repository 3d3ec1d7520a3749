from letkd_keras.prototypes.prototype_fit import PrototypeFit


def fit_prototypes(
    teacher,
    data,
    templates=4096,
    subclasses=8,
    components=60,
    seed=0,
    **options,
):
    """Fit a teacher's prototypes to the training images: the offline stage of letKD.

    The teacher runs in inference mode, once over the data for the penultimate clusters and the
    statistics of the LDA, once more for the sub-classes where there is an intermediate tap, and a
    third time for their scores where the projected features exceed `memory`.

    Args:
        teacher: A functional `keras.Model` from images to logits [B, classes].
        data: `(images, labels)` arrays or a repeatable set of `(images, labels, ...)` batches such
            as a `tf.data.Dataset`; the training images as the teacher takes them, normalised and
            without augmentation, in the same order at each pass; labels are integers [B].
        templates: Number K of penultimate clusters.
        subclasses: Clusters of each class at the intermediate tap.
        components: LDA components kept, never more than classes - 1 or channels. Where the
            classes do not give as many as asked for, the number is the paper's (8 for ten
            classes) or classes - 1.
        seed: Seed of the k-means runs and, where points exceed `memory`, of the sample.
        **options: Keyword arguments of `PrototypeFit`: taps, pooling, iterations, memory, workdir
            and the like.

    Returns:
        `Prototypes`.

    Raises:
        ValueError: If an argument is out of its range, a tap is not in the teacher, labels are not
            integers below the teacher's number of classes, there are fewer points than clusters,
            or `workdir` belongs to a run with other settings.
        OSError: If the disk has no room for the cache.

    Reference:
        Görgün, Gürbüz, Alatan. "Knowledge Distillation Layer that Lets the Student Decide", BMVC
        2023, arXiv:2309.02843, section 3, with the numbers of the authors' program.
    """
    return PrototypeFit(teacher, data, templates, subclasses, components, seed, **options).run()
