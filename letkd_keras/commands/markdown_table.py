"""Tables in Markdown, which all reports have."""


def markdown_table(heads, rows):
    """Lay out a table.

    Args:
        heads: Headings, texts.
        rows: Rows of cells, texts, as many as headings.

    Returns:
        List of lines.
    """
    return [_line(heads), "|---" * len(heads) + "|", *map(_line, rows)]


def _line(cells):
    return f"| {' | '.join(cells)} |"
