from dataclasses import replace

import keras
import numpy as np
from matplotlib.axes import Axes

from letkd_keras import models
from letkd_keras.export import cost_report, fold
from letkd_keras.export.cost_report import (
    CostRow,
    form_title,
    forms_of,
    measure,
    plot,
    table,
    without_kd_layers,
)
from letkd_keras.export.formats import Format


def _row(form, size, latency, top1=50.0):
    latencies = (latency, latency / 2, 20 * latency)
    return CostRow("net", form, "tflite", 10, 1000, size, *latencies, top1)


def test_a_row_counts_the_form_that_is_measured(student, images):
    folded = fold(student, images=images)
    labels = folded.predict(images, verbose=0).argmax(-1)
    other = (images[:4], (labels[:4] + np.array([0, 0, 0, 1])) % 5)
    row = measure(
        folded, "folded", "tflite", images=images, labels=labels, selection=other, repeats=2
    )
    assert row.params == folded.count_params()
    assert row.bytes > 4 * row.params
    assert (row.top1, row.selection_top1) == (100, 75)
    assert min(row.latency_ms_1, row.latency_ms_2) > 0
    assert row.latency_ms_batch32 > row.latency_ms_1


def test_plain_form_is_the_network_without_its_kd_layers(student):
    plain = without_kd_layers(student)
    network = models.build("resnet8", num_classes=5, input_shape=(16, 16, 3))
    assert [layer.name for layer in plain.layers] == [layer.name for layer in network.layers]
    assert plain.count_params() == network.count_params()


def test_table_tells_the_overhead_over_the_plain_form():
    text = table([_row("plain", 1000, 2.0, None), _row("folded", 1250, 2.2)])
    plain, folded = text.strip().splitlines()[2:]
    assert plain.endswith("| - | - |")
    assert folded.endswith("| 50.00% | +25%, +10% |")
    # Each student is compared with its own plain form.
    rows = [_row("plain", 1000, 2.0), _row("folded", 1250, 2.2)]
    others = [replace(row, model="other", bytes=2 * row.bytes) for row in rows]
    header, _, *lines = table([*rows, *others]).strip().splitlines()
    assert [text.startswith("| model | form |") for text in (text, header)] == [False, True]
    assert [line.endswith("| +25%, +10% |") for line in lines] == [False, True, False, True]


def test_table_has_the_accuracy_for_selection_where_there_is_one():
    row = replace(_row("reduced-8", 1000, 2.0), selection_top1=60.0)
    header, _, folded, reduced = table([_row("folded", 1250, 2.2), row]).strip().splitlines()
    assert "| batch of 32 | top-1 for selection | test top-1 | bytes" in header
    assert folded.endswith("| - | 50.00% | - |")
    assert reduced.endswith("| 60.00% | 50.00% | - |")


def test_latencies_and_multiply_adds_that_are_unknown(tmp_path, monkeypatch):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.GRU(2)(keras.layers.Reshape((16, 3))(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    runs = []

    def latency(runtime, file, batch, threads, repeats):
        runs.append((len(batch), threads, repeats))
        return len(runs)

    monkeypatch.setattr(cost_report, "latency_ms", latency)
    monkeypatch.setattr(Format, "write", lambda self, student, path, options: path.touch())
    images = np.zeros((2, 4, 4, 3), "float32")
    row = measure(model, "trained", "tflite", images=images, repeats=4, name="net")
    assert runs == [(1, 1, 4), (1, 2, 4), (32, 2, 1)]
    assert " | 1.00 ms | 2.00 ms | 3.0 ms | " in table([row])
    assert row.model == "net"
    assert (row.params, row.macs) == (2 * 3 * (3 + 2 + 2) + 2 * 3, None)
    assert " | 48 | - | " in table([row])
    plot([replace(row, top1=50.0)], tmp_path / "cost.png")


def test_forms_have_titles():
    assert [form_title(form) for form in ("plain", "trained", "folded", "reduced-64")] == [
        "plain",
        "as trained",
        "folded",
        "64 templates",
    ]


def test_fewer_templates_are_lighter():
    colors = cost_report._form_colors(["reduced-8", "folded", "reduced-128", "reduced-64"])
    few, some, many = (sum(colors[f"reduced-{count}"][:3]) for count in (8, 64, 128))
    assert few > some > many


def test_points_and_legend_of_the_plot(tmp_path, monkeypatch):
    drawn, draw = [], Axes.plot

    def record(axes, x, y, **options):
        drawn.append(options.get("label", (x, y)))
        return draw(axes, x, y, **options)

    monkeypatch.setattr(Axes, "plot", record)
    row = replace(_row("reduced-8", 3_000_000, 2.0), macs=4_000_000, selection_top1=60.0)
    plot([_row("plain", 1, 1.0, None), row, replace(row, top1=None)], tmp_path / "cost.png")
    points = [(x, y) for x in (3.0, 4.0, 2.0) for y in (50.0, 60.0)]
    assert drawn == [*points, "8 templates"]  # nor has the legend what is not drawn
    plot([row, replace(row, format="onnx")], tmp_path / "cost.png")
    assert drawn[-3:] == ["8 templates", "tflite", "onnx"]


def test_plot_is_an_image(tmp_path):
    plot([_row("plain", 1000, 2.0), _row("folded", 1250, 2.2)], tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_forms_of_a_student(student, images):
    labels = np.zeros(len(images), int)
    forms = forms_of(student, images, labels)
    assert list(forms) == ["plain", "trained", "folded"]
    # The network without its KD layers was never trained as such: it has no accuracy.
    assert forms["plain"][1] is None
    assert forms["trained"] == (student, labels)
    plain = without_kd_layers(student)
    model, known = forms_of(student, images, labels, plain)["plain"]
    assert known is labels
    assert model.count_params() == fold(plain, images=images).count_params()
    assert list(forms_of(plain, images)) == ["trained", "folded"]
