"""What the recipes can run: networks, pairs and methods, with costs and published accuracy."""

from dataclasses import dataclass

import keras

from letkd_keras import KDLayer, models
from letkd_keras.functional.cost import Cost, cost_of
from letkd_keras.recipes import methods, pairs

# Classes and image size of the data sets that pairs are for.
_DATASETS = {"cifar100": (100, 32), "tiny_imagenet": (200, 64), "imagenet": (1000, 224)}
# The paper's numbers of templates: penultimate, and intermediate for each class.
_TEMPLATES = 4096
_SUBCLASSES = 8


@dataclass(frozen=True)
class NetworkRow:
    """A network of the zoo at the size of its data set.

    Attributes:
        name: Its name.
        dataset: The data set whose classes and image size it is counted for.
        cost: Parameters and multiply-adds.
        penultimate: Shape (height, width, channels) of that tap.
        intermediate: Likewise.
    """

    name: str
    dataset: str
    cost: Cost
    penultimate: tuple
    intermediate: tuple


@dataclass(frozen=True)
class KDRow:
    """What the KD layers of a method make of a pair's student.

    Attributes:
        method: Name of the method.
        cost: The student's with its KD layers, values at each location.
        pooled: The same where global average pooling runs before the last KD layer's values, as in
            training and in exported students.
    """

    method: str
    cost: Cost
    pooled: Cost


def network_row(name, dataset):
    """Build a network for a data set, without giving weights values, and count.

    Args:
        name: Name in the zoo.
        dataset: Name of a data set that has pairs.

    Returns:
        `NetworkRow`.
    """
    classes, size = _DATASETS[dataset]
    shape = (3, size, size) if _channels_first() else (size, size, 3)
    with _without_values():
        model = models.build(name, num_classes=classes, input_shape=shape)
        cost = cost_of(model)
    taps = (tuple(model.get_layer(tap).output.shape[1:]) for tap in ("penultimate", "intermediate"))
    if _channels_first():
        taps = ((height, width, channels) for channels, height, width in taps)
    return NetworkRow(name, dataset, cost, *taps)


def network_rows():
    """All networks of the zoo, for CIFAR-100 or ImageNet."""
    return [
        network_row(name, "imagenet" if name.startswith("imagenet_") else "cifar100")
        for name in models.names()
    ]


def kd_rows(pair, student):
    """What the KD layers of each supervised method add to a pair's student.

    Args:
        pair: `Pair`.
        student: The student's `NetworkRow`, for the pair's data set.

    Returns:
        List of `KDRow`, one for each method whose KD layers stay in the student.
    """
    classes, _ = _DATASETS[pair.dataset]
    templates = {"penultimate": _TEMPLATES, "intermediate": _SUBCLASSES * classes}
    rows = []
    for method in ("letkd1", "letkd2"):
        cost = pooled = student.cost
        for level in methods.levels([method]):
            shape, alpha = getattr(student, level), getattr(pair, f"{level}_alpha")
            added, added_pooled = _kd_layer_costs(shape, templates[level], alpha)
            cost = _sum(cost, added)
            pooled = _sum(pooled, added_pooled if level == "penultimate" else added)
        rows.append(KDRow(method, cost, pooled))
    return rows


def _kd_layer_costs(shape, templates, alpha):
    """Costs of a KD layer by itself, with values at each location and once an image."""
    with _without_values():
        inputs = keras.Input(shape)
        features = KDLayer(templates, alpha=alpha, data_format="channels_last")(inputs)
        pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last")
        model = keras.Model(inputs, pool(features))
        return cost_of(model), cost_of(model, pooled=True)


def _without_values():
    """A scope in which variables have shapes only: counting needs no more, and it is faster."""
    return keras.StatelessScope(initialize_variables=False)


def _sum(first, second):
    return Cost(first.parameters + second.parameters, first.multiply_adds + second.multiply_adds)


def _channels_first():
    return keras.config.image_data_format() == "channels_first"


def tables():
    """All tables, as they are finished.

    Yields:
        `rich.table.Table`: methods, networks, and for each data set its pairs and what the KD
        layers add to their students.
    """
    yield _methods_table()
    networks = network_rows()
    yield _networks_table(networks)
    known = {(row.name, row.dataset): row for row in networks}
    for dataset in pairs.datasets():
        chosen = [pair for pair in pairs.PAIRS if pair.dataset == dataset]
        yield _pairs_table(dataset, chosen)
        students = {
            pair.student: known.get((pair.student, dataset)) or network_row(pair.student, dataset)
            for pair in chosen
        }
        yield _kd_table(dataset, [(pair, students[pair.student]) for pair in chosen])


def _methods_table():
    table = _table("Methods (--method)", "name", "in tables", "supervised at", "KD layers")
    for name in methods.METHODS:
        method = methods.METHODS[name]
        table.add_row(name, method.title, " and ".join(method.levels) or "-", method.kd_layers)
    return table


def _networks_table(rows):
    table = _table(
        "Networks",
        "name",
        "counted for",
        ">parameters",
        ">multiply-adds",
        ">penultimate tap",
        ">intermediate tap",
    )
    for row in rows:
        table.add_row(
            row.name,
            row.dataset,
            f"{row.cost.parameters:,}",
            _millions(row.cost.multiply_adds),
            "x".join(map(str, row.penultimate)),
            "x".join(map(str, row.intermediate)),
        )
    return table


def _pairs_table(dataset, chosen):
    classes, size = _DATASETS[dataset]
    columns = [name for name in _PUBLISHED if any(name in pair.published for pair in chosen)]
    top5 = any(pair.published_top5 for pair in chosen)
    measure = "top-1, and top-5 below," if top5 else "top-1"
    table = _table(
        f"Pairs of {dataset}: {classes} classes, {size}x{size}; published {measure} in percent",
        "pair",
        ">rate",
        ">alpha",
        *(f">{_PUBLISHED[name]}" for name in columns),
        caption=_notes(chosen),
    )
    for pair in chosen:
        table.add_row(
            pair.name + ("*" if pair.note else ""),
            f"{pair.learning_rate:g}",
            f"{pair.penultimate_alpha:g}, {pair.intermediate_alpha:g}",
            *(_published(pair, name) for name in columns),
        )
    return table


# Columns of the paper's tables, in its order.
_PUBLISHED = {
    "teacher": "teacher",
    "student": "student",
    "kd": "KD",
    "fitnet": "FitNet",
    "dkd": "DKD",
    "simkd": "SimKD",
    "quest": "QUEST",
    "letkd1": "letKD-1",
    "letkd2": "letKD-2",
}


def _published(pair, method):
    top1, top5 = pair.published.get(method), pair.published_top5.get(method)
    if top1 is None:
        return "-"
    return f"{top1:.2f}" if top5 is None else f"{top1:.2f}\n{top5:.2f}"


def _notes(chosen):
    notes = [f"* {pair.name}: {pair.note}" for pair in chosen if pair.note]
    return "\n".join(["alpha: penultimate, intermediate", *notes])


def _kd_table(dataset, chosen):
    table = _table(
        f"What the KD layers add to the students of {dataset}",
        "pair",
        "method",
        ">parameters",
        ">multiply-adds",
        ">pooled first",
        caption=f"{_TEMPLATES} penultimate templates, {_SUBCLASSES} a class at the intermediate "
        "tap\npooled first: as trained and exported, the last KD layer's values once an image",
    )
    for pair, student in chosen:
        plain = student.cost
        table.add_row(
            pair.name, "student", f"{plain.parameters:,}", _millions(plain.multiply_adds), ""
        )
        for row in kd_rows(pair, student):
            table.add_row(
                "",
                methods.title(row.method),
                f"{row.cost.parameters:,} ({row.cost.parameters / plain.parameters:.1f}x)",
                _millions(row.cost.multiply_adds, plain.multiply_adds),
                _millions(row.pooled.multiply_adds, plain.multiply_adds),
            )
    return table


def _millions(count, plain=None):
    factor = f" ({count / plain:.1f}x)" if plain else ""
    return f"{count / 1e6:,.1f} M{factor}"


def _table(title, *columns, caption=None):
    """A table; a column that begins with `>` is aligned to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(
            column.removeprefix(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
        )
    return table
