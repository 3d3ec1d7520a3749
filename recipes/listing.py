"""What the recipes can run: methods, losses, networks, pairs, costs and published accuracies."""

from collections import defaultdict
from dataclasses import dataclass

import keras

from letkd_keras import models
from letkd_keras.functional import Cost, cost_of
from letkd_keras.functional.cost import known_cost_of
from letkd_keras.layers import KDLayer
from letkd_keras.levels import LEVELS
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.models.zoo import image_shape
from letkd_keras.recipes import cifar100, imagenet, tiny_imagenet
from letkd_keras.recipes.experiments import logit_loss_settings, methods, published
from letkd_keras.recipes.reports.method_table import published_text

# Recipes with pairs that have published accuracies.
SETTINGS = (cifar100.SETTINGS, tiny_imagenet.SETTINGS, imagenet.SETTINGS)
# Methods in a table of published accuracies, which is then narrow enough for a terminal.
_COLUMNS = 10


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        title: Its title.
        heads: Headings of the columns.
        rows: List of tuples, a text for each column.
        caption: Text below it, or the empty string.
    """

    title: str
    heads: tuple
    rows: list
    caption: str = ""


@dataclass(frozen=True)
class NetworkRow:
    """A network of the zoo at the size of its data set.

    Attributes:
        name: Its name.
        dataset: Name of the data set whose classes and image size it is counted for.
        cost: Parameters and multiply-adds.
        penultimate: Shape (height, width, channels) of the output of the layer `penultimate`;
            `None` where a network of the user has no layer of this name. Without a grid, it has
            the channels alone.
        intermediate: The same of the layer `intermediate`.
    """

    name: str
    dataset: str
    cost: Cost
    penultimate: tuple | None
    intermediate: tuple | None


@dataclass(frozen=True)
class KDRow:
    """What a student costs with the KD layers of a method.

    Attributes:
        method: Name of the method.
        cost: Cost with values at each location.
        pooled: Cost where global average pooling precedes the last KD layer's values, as in
            training and in exported students.
    """

    method: str
    cost: Cost
    pooled: Cost


def network_row(name, settings):
    """Build a network for a data set, without giving weights values, and count.

    Args:
        name: Name in the zoo.
        settings: `Settings` of the data set.

    Returns:
        `NetworkRow`.
    """
    size = settings.image_size
    with _without_values():
        model = models.build(name, num_classes=settings.num_classes, input_shape=image_shape(size))
        cost = known_cost_of(model)
    layers = {layer.name: layer for layer in model.layers}
    shapes = [_grid_and_channels(layers[level]) if level in layers else None for level in LEVELS]
    return NetworkRow(name, settings.dataset, cost, *shapes)


def _grid_and_channels(layer):
    shape = tuple(layer.output.shape[1:])
    # In a network of the user, the layer may have no grid.
    if len(shape) == 3 and keras.config.image_data_format() == "channels_first":
        channels, height, width = shape
        return height, width, channels
    return shape


def network_rows():
    """All networks of the zoo, for CIFAR-100 or ImageNet."""
    return [
        network_row(name, imagenet.SETTINGS if name.startswith("imagenet_") else cifar100.SETTINGS)
        for name in models.names()
    ]


def kd_rows(pair, student, settings):
    """What a pair's student costs with the KD layers of letKD-1 and letKD-2.

    Args:
        pair: `Pair`.
        student: `NetworkRow` of the student, for the pair's data set.
        settings: `Settings` of the data set.

    Returns:
        List of `KDRow`.
    """
    templates = {
        "penultimate": settings.templates,
        "intermediate": settings.subclasses * settings.num_classes,
    }
    rows = []
    for method in ("letkd1", "letkd2"):
        cost = pooled = student.cost
        for level in methods.levels_of([method]):
            shape, alpha = getattr(student, level), getattr(pair, f"{level}_alpha")
            added, added_pooled = _kd_layer_costs(shape, templates[level], alpha)
            cost = _sum(cost, added)
            pooled = _sum(pooled, added_pooled if level == "penultimate" else added)
        rows.append(KDRow(method, cost, pooled))
    return rows


def _kd_layer_costs(shape, templates, alpha):
    """Costs of a KD layer alone, with values at each location and once for an image."""
    with _without_values():
        inputs = keras.Input(shape)
        features = KDLayer(templates, alpha=alpha, data_format="channels_last")(inputs)
        pool = keras.layers.GlobalAveragePooling2D(data_format="channels_last")
        model = keras.Model(inputs, pool(features))
        return cost_of(model), cost_of(model, pooled=True)


def _without_values():
    """A scope in which variables have shapes only, which is faster and enough to count."""
    return keras.StatelessScope(initialize_variables=False)


def _sum(first, second):
    return Cost(first.parameters + second.parameters, first.multiply_adds + second.multiply_adds)


def tables():
    """All tables, each when it is finished.

    Yields:
        `Table`: methods, losses, networks, and for each data set its pairs, their published
        accuracies and the cost of the KD layers.
    """
    yield _methods_table()
    yield _losses_table()
    networks = network_rows()
    yield _networks_table(networks)
    known = {(row.name, row.dataset): row for row in networks}
    for settings in SETTINGS:
        yield _pairs_table(settings)
        yield from _published_tables(settings)
        students = {
            pair.student: known.get((pair.student, settings.dataset))
            or network_row(pair.student, settings)
            for pair in settings.pairs
        }
        yield _kd_table(settings, students)


def _methods_table():
    known = {name: methods.parse(name)[0] for name in methods.names()}
    rows = [
        (name, row.title, " and ".join(row.levels) or "-", row.kd_layers, f"{row.task_weight:g}")
        for name, row in known.items()
    ]
    return Table(
        "Methods (--methods)",
        ("name", "in tables", "supervised at", "KD layers", "weight of cross-entropy"),
        rows,
        "Any loss of the next table can be added to a method, except to student: letkd2+dkd, "
        "fitnet+kd. The cross-entropy then keeps its weight.",
    )


def _losses_table():
    rows = [
        (
            name,
            loss.paper,
            _text(loss.settings()),
            f"{loss.weight:g}",
            f"{logit_loss_settings.added_weight(name):g}",
            f"{loss.warm_up_epochs}",
        )
        for name, loss in LOGIT_LOSSES.items()
    ]
    of_imagenet = "; ".join(
        f"{name}: {_text({**row.get('options', {}), **row})}"
        for name, row in imagenet.SETTINGS.logit_losses.items()
    )
    return Table(
        "Losses on the logits, with their settings on CIFAR-100",
        ("name", "paper", "settings", "weight", "added to a method", "warm-up epochs of 240"),
        rows,
        "beta of dkd and dkd-ls is chosen by the pair, as its authors did. On "
        "ImageNet, where a pair may have another beta: "
        f"{of_imagenet}",
    )


def _text(settings):
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in settings.items()
        if key != "options"
    )


def _networks_table(rows):
    heads = ("name", "counted for", "parameters", "multiply-adds")
    cells = [
        (
            *(row.name, row.dataset, f"{row.cost.parameters:,}"),
            "-" if row.cost.multiply_adds is None else _millions(row.cost.multiply_adds),
            *(
                "-" if shape is None else "x".join(map(str, shape))
                for shape in (row.penultimate, row.intermediate)
            ),
        )
        for row in rows
    ]
    return Table("Networks", (*heads, "penultimate layer", "intermediate layer"), cells)


def _pairs_table(settings):
    size = settings.image_size
    notes = [f"* {pair.name}: {pair.note}" for pair in settings.pairs if pair.note]
    rows = []
    for pair in settings.pairs:
        beta = logit_loss_settings.of_pair(settings, pair)["dkd"]["options"]["beta"]
        numbers = (pair.learning_rate, pair.penultimate_alpha, pair.intermediate_alpha, beta)
        rows.append((pair.name + ("*" if pair.note else ""), *(f"{n:g}" for n in numbers)))
    return Table(
        f"Pairs of {settings.dataset}: {settings.num_classes} classes, {size}x{size}",
        ("pair", "learning rate", "penultimate alpha", "intermediate alpha", "beta of DKD"),
        rows,
        "\n".join(notes),
    )


def _published_tables(settings):
    """Published accuracies of all methods, pairs and sources; ablations and probes at the end."""
    numbers = {
        pair.name: row
        for pair in settings.pairs
        if (row := published.methods_of(settings.dataset, pair.name))
    }
    names = list(dict.fromkeys(name for row in numbers.values() for name in row))
    for start in range(0, len(names), _COLUMNS):
        columns = names[start : start + _COLUMNS]
        yield Table(
            f"Published top-1 of {settings.dataset} in percent (top-1/top-5 where both are known)",
            ("pair", *map(_title, columns)),
            [
                (pair, *(published_text(row.get(name)) for name in columns))
                for pair, row in numbers.items()
            ],
            _sources(numbers, columns),
        )
    rows = [
        (pair.name, _title(method), published_text(accuracy), accuracy.source)
        for pair in settings.pairs
        for method, accuracy in published.ablations_of(settings.dataset, pair.name).items()
    ]
    rows += [
        (
            pair.name,
            f"LDA probe of {_title(method)}: {name}",
            published_text(accuracy),
            accuracy.source,
        )
        for pair in settings.pairs
        for method, probe in published.probes_of(settings.dataset, pair.name).items()
        for name, accuracy in probe.items()
    ]
    if rows:
        title = f"Published ablations of {settings.dataset}: top-1 in percent"
        yield Table(title, ("pair", "method", "top-1", "source"), rows)


def _title(name):
    return published.TITLES.get(name) or methods.title(name)


def _sources(numbers, names):
    """Each source with its methods, then the notes on single numbers, a line each."""
    titles, notes = defaultdict(dict), []
    for name in names:
        for pair, row in numbers.items():
            if name in row:
                titles[row[name].source][_title(name)] = None  # each title once, in this order
                if row[name].note:
                    notes.append(f"{_title(name)} of {pair}: {row[name].note}")
    sources = [f"{source}: {', '.join(own)}" for source, own in titles.items()]
    return "\n".join([*sources, *notes])


def _kd_table(settings, students):
    rows = []
    for pair in settings.pairs:
        student = students[pair.student]
        count, adds = student.cost.parameters, student.cost.multiply_adds
        rows.append((pair.name, "student", f"{count:,}", _millions(adds), ""))
        rows += [
            (
                *("", methods.title(row.method)),
                f"{row.cost.parameters:,} ({row.cost.parameters / count:.1f}x)",
                *(_millions(cost.multiply_adds, adds) for cost in (row.cost, row.pooled)),
            )
            for row in kd_rows(pair, student, settings)
        ]
    return Table(
        f"Cost of the KD layers in the students of {settings.dataset}",
        ("pair", "method", "parameters", "multiply-adds", "pooled first"),
        rows,
        f"{settings.templates} penultimate templates, {settings.subclasses} sub-classes of each "
        "class\npooled first: as trained and exported, the last KD layer's values once for an "
        "image",
    )


def _millions(count, plain=None):
    factor = f" ({count / plain:.1f}x)" if plain else ""
    return f"{count / 1e6:,.1f} M{factor}"
