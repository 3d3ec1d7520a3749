"""The accuracy of guessing, and what is hardly better."""


def is_near_chance(accuracy, num_classes):
    """Whether an accuracy is hardly better than that of guessing.

    Args:
        accuracy: Top-1 accuracy, in [0, 1].
        num_classes: Number of classes.

    Returns:
        Whether it is less than twice that of guessing; of fewer than eleven classes, less than that
        of guessing and a tenth of the rest.
    """
    chance = 1 / num_classes
    return accuracy < chance + min(chance, (1 - chance) / 10)
