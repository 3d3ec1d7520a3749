import numpy as np


def stratified(labels, examples, seed, argument):
    """Choose examples with the classes in the same proportion.

    Args:
        labels: Integers [N].
        examples: Number wanted, or `None` for all.
        seed: Seed of the choice.
        argument: What an error calls `examples`.

    Returns:
        Indices in ascending order, or the slice of everything.

    Raises:
        ValueError: If the number is below one per class or above what is there.
    """
    if examples is None or examples == len(labels):
        return slice(None)
    labels = np.asarray(labels)
    present = np.unique(labels)
    classes = len(present)
    if not classes <= examples < len(labels):
        raise ValueError(
            f"`{argument}` must be between {classes} (one a class) and {len(labels)}. "
            f"Received: {argument}={examples}"
        )
    # scikit-learn's stratified split refuses to leave less than one image a class out.
    order = np.random.default_rng(seed).permutation(len(labels))
    share = np.empty(len(labels))
    for label in present:
        members = order[labels[order] == label]
        share[members] = np.arange(len(members)) / len(members)
    return np.sort(order[np.argsort(share[order], kind="stable")[:examples]])
