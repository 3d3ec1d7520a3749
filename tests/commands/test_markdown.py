from letkd_keras.commands.markdown import markdown_table, markdown_text


def test_a_table_has_its_headings_a_rule_and_its_rows():
    text = markdown_table(["method", "top-1"], [["KD", "70.66"], ["DKD", "-"]])
    assert text.splitlines() == ["| method | top-1 |", "|---|---|", "| KD | 70.66 |", "| DKD | - |"]


def test_empty_paragraphs_are_left_out():
    assert markdown_text("# Title", "", "First.\n", "- one\n- two") == (
        "# Title\n\nFirst.\n\n- one\n- two\n"
    )
