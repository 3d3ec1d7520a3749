"""Reports in Markdown, printed to a terminal or a pipe: at most 80 columns where there is no more.

A table that is wider is printed in parts, each with its first column. A picture is its path.
"""

import itertools
import re
import shutil
import sys
import textwrap
from pathlib import Path

_GAP = "  "
_PICTURE = re.compile(r"!\[([^]]*)\]\(([^)]*)\)")


def width():
    """Columns of the output: those of the terminal, 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80


def lines_of_whole_words(text, columns, indent=""):
    """Wrap a text, but keep paths and words whole, so that they can be copied.

    Args:
        text: One paragraph.
        columns: Width. Single words can be longer.
        indent: What lines after the first one begin with.

    Returns:
        List of lines.
    """
    return textwrap.wrap(
        text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def print_report(path):
    """Print a report in Markdown.

    Args:
        path: The file.
    """
    path = Path(path)
    print(plain_text(path.read_text(encoding="utf-8"), path.parent, width()))


def print_table(heads, rows):
    """Print a table.

    Args:
        heads: Headings, texts.
        rows: Lists of cells, texts, as many as headings.
    """
    print("\n".join(_table([list(heads), *map(list, rows)], width())))


def print_text(text):
    """Print lines of text, wrapped."""
    print("\n".join(_wrapped(line, width()) for line in text.split("\n")))


def plain_text(markdown, folder, columns):
    """Lay out Markdown for a terminal.

    Args:
        markdown: The text: headings, paragraphs, lists, tables and pictures.
        folder: Folder that paths of pictures are relative to.
        columns: Width. Single words, such as paths, can be longer.

    Returns:
        A text.
    """
    groups = itertools.groupby(markdown.strip().splitlines(), key=_kind)
    blocks = (_block(kind, list(lines), folder, columns) for kind, lines in groups)
    return "\n\n".join(block for block in blocks if block)


def _kind(line):
    for kind, start in {"table": "|", "heading": "#", "list": "- ", "picture": "!["}.items():
        if line.startswith(start):
            return kind
    return "text" if line.strip() else "blank"


def _block(kind, lines, folder, columns):
    if kind == "table":
        # The second line only separates the headings.
        return "\n".join(_table([_cells(line) for line in (lines[0], *lines[2:])], columns))
    if kind == "heading":
        return "\n\n".join(line.lstrip("# ") for line in lines)
    if kind == "picture":
        pictures = (_PICTURE.fullmatch(line.strip()) for line in lines)
        return "\n".join(
            _captioned(picture[1], str(Path(folder, picture[2])), columns) for picture in pictures
        )
    if kind == "list":
        return "\n".join(_wrapped(line, columns, "  ") for line in lines)
    return _wrapped(" ".join(lines), columns)


def _captioned(caption, path, columns):
    """A path after its caption, or below it where the line is too short for both."""
    if len(caption) + len(path) + 2 <= columns:
        return f"{caption}: {path}"
    return f"{_wrapped(f'{caption}:', columns)}\n{path}"


def _wrapped(text, columns, indent=""):
    return "\n".join(lines_of_whole_words(text.replace("`", ""), columns, indent))


def _cells(line):
    cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
    return [cell.strip().replace(r"\|", "|").replace("`", "") for cell in cells]


def _table(table, columns):
    """Lines of a table whose first row has the headings."""
    heads, rows = table[0], table[1:]
    # Headings are wrapped, cells are not unless they are sentences.
    widths = [
        max(1, *map(len, head.split()), *(min(len(row[i]), columns // 2) for row in rows))
        for i, head in enumerate(heads)
    ]
    shown, used = [], 0
    rest = list(range(1, len(heads)))
    while rest and used + len(_GAP) + widths[rest[0]] <= columns - widths[0]:
        used += len(_GAP) + widths[rest[0]]
        shown.append(rest.pop(0))
    if rest and not shown:  # a column that is wider than the page
        shown.append(rest.pop(0))
    lines = _part(table, widths, [0, *shown])
    if rest:
        others = [[row[i] for i in (0, *rest)] for row in table]
        lines += ["", *_table(others, columns)]
    return lines


def _part(table, widths, shown):
    lines = []
    align = {i: str.rjust if _is_number(table, i) else str.ljust for i in shown}
    for number, row in enumerate(table):
        cells = [lines_of_whole_words(row[i], widths[i]) or [""] for i in shown]
        for texts in itertools.zip_longest(*cells, fillvalue=""):
            aligned = (align[i](text, widths[i]) for i, text in zip(shown, texts, strict=True))
            lines.append(_GAP.join(aligned).rstrip())
        if number == 0:
            lines.append("-" * (sum(widths[i] for i in shown) + len(_GAP) * (len(shown) - 1)))
    return lines


def _is_number(table, column):
    return all(re.match(r"[-+]?\d|-?$", row[column]) for row in table[1:])
