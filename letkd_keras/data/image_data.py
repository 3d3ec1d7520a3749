from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class ImageData:
    """A classification data set in memory, as it comes: no augmentation, no normalisation.

    Attributes:
        name: Name of the data set, for manifests and reports.
        x_train: Training images, uint8 [N, H, W, C].
        y_train: Their classes, int64 [N].
        x_test: Test images, uint8 [M, H, W, C].
        y_test: Their classes, int64 [M].
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        class_names: Name of each class, in the order of the labels.
        split: What a reader of an accuracy must know of the split.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    mean: tuple
    std: tuple
    class_names: tuple = field(repr=False)
    split: str = ""

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self):
        """Shape of one image."""
        return self.x_train.shape[1:]

    def subset(self, train_examples=None, test_examples=None, seed=0):
        """A smaller data set with the classes in the same proportion.

        Args:
            train_examples: Number of training images, or `None` for all.
            test_examples: Number of test images, or `None` for all.
            seed: Seed of the choice.

        Returns:
            An `ImageData`.

        Raises:
            ValueError: If a number is below one per class or above what is there.
        """
        train = _stratified(self.y_train, train_examples, seed, "train_examples")
        test = _stratified(self.y_test, test_examples, seed, "test_examples")
        return ImageData(
            name=self.name,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_test[test],
            y_test=self.y_test[test],
            mean=self.mean,
            std=self.std,
            class_names=self.class_names,
            split=self.split,
        )


def _stratified(labels, examples, seed, argument):
    if examples is None or examples == len(labels):
        return slice(None)
    classes = len(np.unique(labels))
    if not classes <= examples < len(labels):
        raise ValueError(
            f"`{argument}` must be between {classes} (one a class) and {len(labels)}. "
            f"Received: {argument}={examples}"
        )
    from sklearn.model_selection import train_test_split

    chosen, _ = train_test_split(
        np.arange(len(labels)), train_size=examples, stratify=labels, random_state=seed
    )
    return np.sort(chosen)
