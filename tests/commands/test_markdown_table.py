from letkd_keras.commands.markdown_table import markdown_table


def test_a_table_has_its_headings_a_rule_and_its_rows():
    lines = markdown_table(["method", "top-1"], [["KD", "70.66"], ["DKD", "-"]])
    assert lines == ["| method | top-1 |", "|---|---|", "| KD | 70.66 |", "| DKD | - |"]
