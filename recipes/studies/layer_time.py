"""Time for one image of a student with KD layers, by the number of templates."""

import time
from pathlib import Path

import keras
import numpy as np

from letkd_keras.commands import palette
from letkd_keras.commands.log_file import logged_to, recorded
from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.files import save_figure, write_csv, write_text
from letkd_keras.functional import insert_kd_layers
from letkd_keras.functional.cost import known_cost_of
from letkd_keras.layers import KDLayer
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.reports import method_table

# Images in a step; one image measures latency, many throughput.
BATCH_SIZES = (1, 64)
_REPEATS = 20


def milliseconds(model, batch_size, repeats=_REPEATS):
    """Time for one image in milliseconds: the shortest of several steps.

    Args:
        model: A built model of images of one shape.
        batch_size: Images in a step.
        repeats: Number of steps, at least two: the first one compiles the model.

    Returns:
        A number.
    """
    images = np.random.default_rng(0).standard_normal((batch_size, *model.input_shape[1:]))
    images = keras.ops.convert_to_tensor(images.astype("float32"))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict_on_batch(images)
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / batch_size


def measure(experiment, counts):
    """Measure the student without and with a penultimate KD layer of so many templates.

    Weights have no influence on the time: nothing is trained. The layer is measured as it is in
    training, not folded as in exported students.

    Args:
        experiment: `Experiment`, prepared.
        counts: Numbers of templates.

    Returns:
        List of dictionaries: `templates` (0 without the layer), `parameters`, `multiply_adds`
        (`None` where they cannot be counted) and `milliseconds_N` for batches of N images.
    """
    rows = []
    student = experiment.student.build(experiment.data, "student")
    for count in (0, *counts):
        model = student
        if count:
            model = insert_kd_layers(
                student,
                penultimate=KDLayer(count, name="kd_penultimate"),
                penultimate_layer=experiment.student.penultimate_layer,
            )
        cost = known_cost_of(model)
        row = {
            "templates": count,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
        }
        for size in BATCH_SIZES:
            row[f"milliseconds_{size}"] = milliseconds(model, size)
        rows.append(row)
    return rows


def write(experiment, out, counts):
    """Measure, and write `time.md`, `time.csv` and `time.png` into a folder.

    Args:
        experiment: `Experiment`.
        out: Run folder: new, or an earlier one's with the same settings.
        counts: Numbers of templates.

    Returns:
        Rows of `measure`.

    Raises:
        ValueError: If the experiment or the folder does not fit.
    """
    with recorded() as messages:
        experiment = prepare(experiment)
    folder = RunFolder(Path(out), experiment.config(), open_keys=experiment.open_keys)
    with folder.locked(), logged_to(folder / "log.txt", messages):
        rows = measure(experiment, sorted(counts))
        title = f"{experiment.student.title}, images of {experiment.data.name}"
        write_text(folder / "time.md", _markdown(rows, title))
        write_csv(folder / "time.csv", list(rows[0]), rows)
        _plot(rows, title, folder / "time.png")
    return rows


def _markdown(rows, title):
    heads = ["templates", "parameters", "multiply-adds"]
    heads += [f"ms for one image, batches of {size}" for size in BATCH_SIZES]
    cells = [
        [
            str(row["templates"] or "no KD layer"),
            f"{row['parameters']:,}",
            "-" if row["multiply_adds"] is None else f"{row['multiply_adds']:,}",
            *(f"{row[f'milliseconds_{size}']:.3f}" for size in BATCH_SIZES),
        ]
        for row in rows
    ]
    return markdown_text(
        f"# Time by the number of templates: {title}",
        markdown_table(heads, cells),
        f"One KD layer at the penultimate layer, by Keras; the shortest of {_REPEATS} steps.",
        "![Time by the number of templates](time.png)",
        method_table.made_with(),
    )


def _plot(rows, title, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    plain, *with_layer = rows
    for number, size in enumerate(BATCH_SIZES):
        key, color = f"milliseconds_{size}", (palette.BLUE, palette.ORANGE)[number]
        axes.plot(
            [row["templates"] for row in with_layer],
            [row[key] for row in with_layer],
            marker="o",
            color=color,
            label=f"batches of {size}",
        )
        axes.axhline(
            plain[key], color=color, linestyle=":", label=f"batches of {size}, no KD layer"
        )
    axes.set(xlabel="templates", ylabel="ms for one image")
    axes.set_title(title, parse_math=False)
    axes.set_xscale("log", base=2)
    counts = [row["templates"] for row in with_layer]
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path, dpi=110)
