"""The one way to name a data set, for commands and for `config.json`."""

import os
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

from letkd_keras import ranges
from letkd_keras.commands import option_types
from letkd_keras.errors import argument_renamed, did_you_mean

_NAMES = ("digits", "cifar10", "cifar100")
# Of sources written as NAME:DIR, or tfds:NAME.
_PREFIXES = ("tiny-imagenet", "imagenet", "tfds")
# Options that not every kind of source has: option -> kinds.
_APPLIES = {
    "data_dir": ("cifar10", "cifar100", "tfds"),
    "image_size": ("digits", "imagenet", "folder", "tfds"),
    "skip_corrupt": ("folder",),
    "image_cache": ("folder", "tiny_imagenet"),
    "labels": ("folder",),
}
_SPELLED = {
    "digits": "digits",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "tiny_imagenet": "tiny-imagenet:DIR",
    "imagenet": "imagenet:DIR",
    "tfds": "tfds:NAME",
    "folder": "a folder",
    "npz": "an .npz file",
}


@dataclass(frozen=True)
class DataSpec:
    """What `--data` and its options select.

    Args:
        source: `"digits"`, `"cifar10"`, `"cifar100"`, `"tiny-imagenet:DIR"`, `"imagenet:DIR"`,
            `"tfds:NAME"`, a folder with a folder for each class (or with `train` and `val`, or
            with `train`, `val` and `test`), or an `.npz` file that `python -m letkd_keras.data`
            wrote. Paths are made absolute.
        data_dir: Folder of tensorflow-datasets, for `cifar10`, `cifar100` and `tfds:NAME`; `None`
            for its default.
        image_size: Height and width, for data whose images have no fixed size; `None` for the
            default: 32 for digits, 64 for a folder, 224 for ImageNet and streamed `tfds:NAME`.
        pixels: What the networks take, a name of `letkd_keras.data.normalization.PIXELS`; `None`
            for mean and standard deviation of the data set.
        classes: Number of classes, the first ones; `None` for all.
        train_examples: Number of training images, classes in the same proportion; `None` for all.
            Of `tfds:NAME` that is streamed, the first ones.
        test_examples: Number of test images likewise.
        validation_fraction: Share of the training images that is held out as the validation split.
        skip_corrupt: Whether image files that cannot be read are left out.
        image_cache: Folder for decoded images; `None` keeps them in memory.
        labels: CSV file with the classes of the images of a folder without class folders
            (`letkd_keras.data.label_file`); `None` for class folders.
        unlabelled: Folder of further training images, which have no label; `None` for none. The
            images of the data must be in memory.
        labelled_fraction: Fraction of the training images that keep their labels, classes in the
            same proportion; `None` for all. Likewise.
        seed: Seed of every choice of images. Training and test images of the digits are always the
            same.

    Raises:
        FileNotFoundError: If the folder or file of the source does not exist.
        ValueError: If an argument is out of range, the source is unknown, an option does not apply
            to it, or `image_cache` is in a folder that is searched for images.
    """

    source: str
    data_dir: str | None = None
    image_size: int | None = None
    pixels: str | None = None
    classes: int | None = None
    train_examples: int | None = None
    test_examples: int | None = None
    validation_fraction: float = 0.0
    skip_corrupt: bool = False
    image_cache: str | None = None
    labels: str | None = None
    unlabelled: str | None = None
    labelled_fraction: float | None = None
    seed: int = 0

    def __post_init__(self):
        source = str(self.source)
        if source in ("tfds:cifar10", "tfds:cifar100"):  # have published means and deviations
            source = source.removeprefix("tfds:")
        object.__setattr__(self, "source", source)
        self._check_ranges()
        kind = self.kind  # refuses an unknown source
        self._check_exists()
        self._make_absolute()
        for name, kinds in _APPLIES.items():
            if name == "skip_corrupt" and self.unlabelled is not None:
                continue  # it is for images without labels as well
            if getattr(self, name) not in (None, False) and kind not in kinds:
                names = ", ".join(_SPELLED[kind] for kind in kinds)
                raise ValueError(
                    f"`{name}` applies only to {names}. "
                    f"Received: {name}={getattr(self, name)!r} with data={self.source!r}"
                )
        if self.image_cache is not None:
            self.check_is_outside(self.image_cache, "image_cache")

    @classmethod
    def from_options(cls, options):
        """Read the options of `letkd_keras.commands.common_options.add_data_options`.

        Args:
            options: Result of `parse_args`.

        Returns:
            `DataSpec`.
        """
        given = {
            field.name: getattr(options, field.name)
            for field in fields(cls)
            if hasattr(options, field.name)
        }
        return cls(source=options.data, **given)

    @classmethod
    def from_config(cls, config):
        """Rebuild a specification from `config()`; other keys of the dictionary are ignored.

        Raises:
            ValueError: If there is no source, or as the class does.
        """
        if "source" not in config:
            raise ValueError(f"`config` must have the key 'source'. Received: {sorted(config)}")
        names = [field.name for field in fields(cls) if field.name in config]
        return cls(**{name: config[name] for name in names})

    def config(self):
        """Describe the data set as a dictionary of JSON types."""
        return asdict(self)

    @property
    def dataset(self):
        """Key of the data set in tables.

        `"digits"`, `"cifar10"`, `"cifar100"`, `"tiny_imagenet"`, `"imagenet"`, `"folder"` or
        `"tfds:NAME"`. An `.npz` file has that of the data set that was written to it, or `"npz"`.
        """
        if self.kind == "npz":
            from letkd_keras.data.npz import dataset_in_npz

            return dataset_in_npz(self.location) or "npz"
        return self.source if self.kind == "tfds" else self.kind

    def open(self):
        """Read the data set.

        Returns:
            `ImageData`, or `StreamedImages` for `imagenet:DIR` and for `tfds:NAME` with images of
            several sizes or of more than 2 GiB.

        Raises:
            FileNotFoundError: If the data set does not exist there.
            ImportError: If tensorflow-datasets is needed and not installed.
            ValueError: If the data are damaged, or an option is out of range for them.
        """
        from letkd_keras.data.image_data import digests_of
        from letkd_keras.data.loaders import load
        from letkd_keras.data.normalization import statistics_of

        data = load(self)
        known = None
        if self.unlabelled is not None and data.in_memory:
            # Also images that the options below leave out.
            splits = (data.x_train, data.x_test, data.x_validation)
            known = {digest for x in splits if x is not None for digest in digests_of(x)}
        if self.pixels is not None:
            mean, std = statistics_of(self.pixels, data.image_shape[-1])
            data = replace(data, mean=mean, std=std)
        if self.classes is not None:
            data = data.first_classes(self.classes)
        data = data.subset(self.train_examples, self.test_examples, self.seed)
        if self.validation_fraction:
            with argument_renamed("fraction", "validation_fraction"):
                data = data.hold_out(self.validation_fraction, self.seed)
        return self._with_unlabelled(data, known)

    def check_is_outside(self, path, argument):
        """Refuse to write into a folder that is searched for images: later they would be of it.

        Args:
            path: What is written, which need not exist.
            argument: Its name in the error.

        Raises:
            ValueError: If it is below the class folders or below `unlabelled`.
        """
        from letkd_keras.data.class_folders import is_searched, split_folders

        folders = [] if self.unlabelled is None else [self.unlabelled]
        if self.kind in ("folder", "imagenet") and self.labels is None:
            folders += split_folders(self.location).values()
        for folder in folders:
            if is_searched(path, folder):
                raise ValueError(
                    f"`{argument}` must not be in a folder that is searched for images. "
                    f"Received: {argument}={str(path)!r}, which is in {str(folder)!r}"
                )

    def _with_unlabelled(self, data, known):
        """The data without some of the labels, and with images that have none."""
        if self.labelled_fraction is None and self.unlabelled is None:
            return data
        option = "unlabelled" if self.labelled_fraction is None else "labelled_fraction"
        if not data.in_memory:
            raise ValueError(
                f"`{option}` applies to data in memory. "
                f"Received: {option}={getattr(self, option)!r} with {data.name}, which is read "
                "from disk"
            )
        if self.labelled_fraction is not None:
            with argument_renamed("fraction", "labelled_fraction"):
                data = data.keep_labels(self.labelled_fraction, self.seed)
        if self.unlabelled is not None:
            from letkd_keras.data.image_folder import load_unlabelled

            images = load_unlabelled(self.unlabelled, data.image_shape, self.skip_corrupt, known)
            data = data.with_unlabelled(images, Path(self.unlabelled).name)
        return data

    @property
    def location(self):
        """What follows the prefix of the source: a folder or the name of a tfds data set."""
        prefix, colon, rest = self.source.partition(":")
        return rest if colon and prefix in _PREFIXES else self.source

    @cached_property
    def kind(self):
        """The kind of source, such as `"digits"`, `"folder"` or `"tfds"`."""
        if self.source in _NAMES:
            return self.source
        prefix, colon, rest = self.source.partition(":")
        if colon and prefix in _PREFIXES:
            if not rest:
                what = "NAME" if prefix == "tfds" else "DIR"
                raise ValueError(f"`data` must be {prefix}:{what}. Received: data={self.source!r}")
            return prefix.replace("-", "_")
        if Path(self.source).suffix.lower() == ".npz":
            return "npz"
        if _expanded(self.source).is_dir():
            return "folder"
        known = [*_NAMES, *(name for name in _SPELLED.values() if ":" in name)]
        raise ValueError(
            "`data` must be digits, cifar10, cifar100, tiny-imagenet:DIR, imagenet:DIR, tfds:NAME, "
            f"an existing folder or an .npz file. Received: data={self.source!r}"
            f"{did_you_mean(self.source, known)}"
        )

    def _check_exists(self):
        path = _expanded(self.location)
        if self.kind in ("tiny_imagenet", "imagenet") and not path.is_dir():
            raise FileNotFoundError(
                f"`data` must name an existing folder. Received: data={self.source!r}"
            )
        if self.kind == "npz" and not path.is_file():
            raise FileNotFoundError(
                f"`data` must be an existing file. Received: data={self.source!r}"
            )
        for name, what, exists in (
            ("labels", "file", Path.is_file),
            ("unlabelled", "folder", Path.is_dir),
        ):
            value = getattr(self, name)
            if value is not None and not exists(_expanded(value)):
                raise FileNotFoundError(
                    f"`{name}` must be an existing {what}. Received: {name}={str(value)!r}"
                )

    def _make_absolute(self):
        """Make paths absolute, so that a configuration is valid in every working folder."""
        if self.kind in ("tiny_imagenet", "imagenet"):
            prefix = self.source.partition(":")[0]
            object.__setattr__(self, "source", f"{prefix}:{_absolute(self.location)}")
        elif self.kind in ("folder", "npz"):
            object.__setattr__(self, "source", _absolute(self.source))
        for name in ("data_dir", "image_cache", "labels", "unlabelled"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _absolute(getattr(self, name)))

    def _check_ranges(self):
        if not self.source.strip():
            raise ValueError(f"`data` must not be empty. Received: data={self.source!r}")
        numbers = {
            "image_size": ranges.image_size,
            "classes": ranges.class_count,
            "train_examples": ranges.positive_integer,
            "test_examples": ranges.positive_integer,
            "validation_fraction": ranges.fraction,
            "labelled_fraction": ranges.positive_fraction,
            "seed": ranges.seed,
        }
        optional = {field.name for field in fields(self) if field.default is None}
        for name, range_ in numbers.items():
            value = getattr(self, name)
            if value is not None or name not in optional:
                # Python's own numbers, which JSON has.
                object.__setattr__(self, name, range_.check(value, name))
        if self.pixels is not None and self.pixels not in option_types.PIXELS:
            raise ValueError(
                f"`pixels` must be one of {', '.join(option_types.PIXELS)}. "
                f"Received: pixels={self.pixels!r}"
            )


def _absolute(path):
    return os.path.abspath(_expanded(path))  # noqa: PTH100 - links are kept


def _expanded(path):
    """A path in a home folder, if there is such a user; another path as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises a RuntimeError
