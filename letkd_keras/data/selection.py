"""How images are selected: splits, subsets and classes."""

import numpy as np


def stratified(labels, examples, seed, argument):
    """Choose examples with the classes in the same proportion.

    Args:
        labels: Integers [N].
        examples: Number of examples, or `None` for all.
        seed: Seed of the choice.
        argument: Name that an error gives to `examples`.

    Returns:
        Indices in ascending order, or the slice of everything. What is left has an image of each
        class of two or more, if it has as many images as there are classes.

    Raises:
        ValueError: If the number is less than one for each class, or more than there are.
    """
    if examples is None or examples == len(labels):
        return slice(None)
    labels = np.asarray(labels)
    present = np.unique(labels)
    classes = len(present)
    if not classes <= examples < len(labels):
        raise ValueError(
            f"`{argument}` must be between {classes} (one for each class) and {len(labels)}. "
            f"Received: {argument}={examples}"
        )
    # scikit-learn's stratified split refuses to leave out less than one image of each class.
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels))
    for label in present:
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members)) / len(members)
        if len(members) > 1:
            rank[members[-1]] = 1  # the last to be chosen
    return np.sort(order[np.argsort(rank[order], kind="stable")[:examples]])


def fraction_of(labels, fraction, seed):
    """Choose a fraction of the examples, with the classes in the same proportion.

    Args:
        labels: Integers [N].
        fraction: Fraction of the examples that are chosen, greater than 0 and less than 1.
        seed: Seed of the choice.

    Returns:
        Indices of the chosen examples and of the rest, in ascending order. The only image of a
        class is chosen.

    Raises:
        ValueError: If a part would have fewer examples than there are classes.
    """
    count, classes = len(labels), len(np.unique(labels))
    examples = round(fraction * count) if np.isfinite(fraction) else -1
    if not classes <= examples <= count - classes:
        raise ValueError(
            "`fraction` must be greater than 0 and less than 1, with at least one image of each "
            f"class on either side. Received: fraction={fraction} of {count} images"
        )
    chosen = stratified(labels, examples, seed, "fraction")
    return chosen, np.setdiff1d(np.arange(count), chosen)


def held_out(labels, fraction, seed):
    """Split examples in two, with an image of each class in both parts (`fraction_of`).

    Raises:
        ValueError: If a class has one image only, or a part would have fewer examples than there
            are classes.
    """
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            "Every class needs at least two images to be split. "
            f"Received: 1 of the label {present[counts.argmin()]}"
        )
    return fraction_of(labels, fraction, seed)


def find_split(splits, name):
    """Look up a split by its name.

    Args:
        splits: Dictionary of the splits there are.
        name: `"train"`, `"test"` or `"validation"`.

    Returns:
        The value of the dictionary.

    Raises:
        ValueError: If there is no such split.
    """
    if name not in splits:
        hint = ""
        if name == "validation":
            hint = (
                ". There is a validation split only after hold_out (--validation-fraction), or of "
                "folders train, val and test"
            )
        raise ValueError(
            f"`split` must be {' or '.join(map(repr, splits))}. Received: split={name!r}{hint}"
        )
    return splits[name]
