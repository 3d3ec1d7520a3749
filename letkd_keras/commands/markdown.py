"""Markdown, in which all reports are written."""


def markdown_text(*paragraphs):
    """Join paragraphs, which may be headings, tables, lists and pictures; empty ones are left out.

    Args:
        *paragraphs: Texts, with or without a line break at their ends.

    Returns:
        A text with a line break at its end.
    """
    return "\n\n".join(text.rstrip("\n") for text in paragraphs if text) + "\n"


def markdown_table(heads, rows):
    """Lay out a table.

    Args:
        heads: Headings, texts.
        rows: Rows of cells, texts, as many as headings.

    Returns:
        A text without a line break at its end.
    """
    return "\n".join([_line(heads), "|---" * len(heads) + "|", *map(_line, rows)])


def _line(cells):
    return f"| {' | '.join(cells)} |"
