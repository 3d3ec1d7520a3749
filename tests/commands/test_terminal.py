import pytest

from letkd_keras.commands import terminal

REPORT = """# resnet20-resnet8 on digits

1,198 training and 599 test images. Students: `6` epochs of batches of 64, seeds from 0; 64
penultimate templates, 8 sub-classes of each class.

| method | trials | test top-1, last epoch | test top-1, best epoch on test images | published | parameters | without KD layers or adapters |
|---|---|---|---|---|---|---|
| student alone | 5 | 93.92 ± 1.57 | 93.99 ± 1.50 | - | 78,714 | 78,714 |
| letKD-2, intermediate alpha 0 | 5 | 93.22 ± 1.74 | 93.22 ± 1.74 | - | 97,726 | 78,714 |

![Accuracy and loss by epoch](curves.png)

- one
- a \\| b
"""  # noqa: E501


@pytest.mark.parametrize("columns", [80, 120])
def test_a_report_fits_the_columns_and_names_its_pictures(columns):
    text = terminal.plain_text(REPORT, "runs/digits", columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "Accuracy and loss by epoch: runs/digits/curves.png" in text
    assert text.startswith("resnet20-resnet8 on digits\n\n1,198 training")
    assert "…" not in text and "`" not in text and "|---" not in text
    assert all(ord(character) < 0x2190 for character in text)
    # No number is broken.
    assert text.count("93.92 ± 1.57") == 1 and text.count("78,714") == 3


def test_a_path_is_never_broken():
    folder = "runs/digits/resnet20-resnet8"
    line = "![Accuracy against size, multiply-adds and latency](costs.png)"
    expected = ["Accuracy against size, multiply-adds and latency:", f"{folder}/costs.png"]
    assert terminal.plain_text(line, folder, 80).splitlines() == expected
    assert terminal.plain_text(line, folder, 120) == " ".join(expected)


def test_a_wide_table_is_printed_in_parts():
    heads, row = ["name", *(f"column{i}" for i in range(4))], ["x", "1.00", "2", "-", "4"]
    parts = "\n".join(terminal._table([heads, row], 25)).split("\n\n")
    assert parts == [
        "name  column0  column1\n----------------------\nx        1.00        2",
        "name  column2  column3\n----------------------\nx           -        4",
    ]


def test_a_column_may_be_wider_than_the_page():
    assert terminal._table([["name", 30 * "b"], ["x", "1"]], 20) == [
        f"name  {30 * 'b'}",
        36 * "-",
        f"x     {'1':>30}",
    ]


def test_a_column_may_be_empty():
    assert terminal._table([["name", ""], ["x", ""]], 20) == ["name", "-------", "x"]


def test_headings_are_wrapped_and_sentences_too():
    rows = [["method", "test top-1, last epoch"], ["KD", "96.46"], ["AT", "91.00"]]
    assert terminal._table(rows, 40) == [
        "method    test",
        "        top-1,",
        "          last",
        "         epoch",
        "--------------",
        "KD       96.46",
        "AT       91.00",
    ]
    text = "a sentence of many words in a cell that is not a number"
    assert max(map(len, terminal._table([["key", "value"], ["x", text]], 40))) <= 40


def test_tables_are_printed_to_a_pipe(capsys):
    terminal.print_table(["format", "bytes"], [["tflite", "1,234"]])
    assert capsys.readouterr().out == "format  bytes\n-------------\ntflite  1,234\n"
