"""The text of `--help`: it fits the terminal, and shows the default of every option."""

import argparse
import re

from letkd_keras.commands.option_types import byte_count, byte_text
from letkd_keras.commands.terminal import lines_of_whole_words

# A usage with more lines names only what must be given.
_USAGE_LINES = 4


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Show the default of every option, and wrap the description as its author meant it.

    Paragraphs and the items of a list (`- `) are wrapped to the width of the terminal. Lines that
    begin with spaces are commands and tables: a command that is too long is continued with a
    backslash, as a shell expects it.
    """

    def _get_help_string(self, action):
        shown = _default_text(action)
        if shown is None or "default" in (action.help or ""):
            return action.help
        return f"{action.help} (default: {shown})"

    def _fill_text(self, text, width, indent):
        return "\n".join(indent + line for line in wrapped(text, width - len(indent)))


def _default_text(action):
    default = action.default
    if not action.option_strings or default is None or default is False:
        return None
    if default in (argparse.SUPPRESS, [], ()):
        return None
    if action.type is byte_count and isinstance(default, int):
        default = byte_text(default)
    values = default if isinstance(default, list | tuple) else [default]
    return " ".join(map(str, values))


def wrapped(text, width):
    """Wrap a description.

    Args:
        text: Text as in a docstring.
        width: Columns.

    Returns:
        List of lines. Only words that are longer than `width` make longer ones.
    """
    lines, paragraph = [], []

    def end_of_paragraph():
        if paragraph:
            words = " ".join(line.strip() for line in paragraph)
            indent = "  " if words.startswith("- ") else ""
            lines.extend(lines_of_whole_words(words, width, indent))
            paragraph.clear()

    for line in text.splitlines():
        in_item = bool(paragraph) and paragraph[0].startswith("- ")
        if not line.strip():
            end_of_paragraph()
            lines.append("")
        elif line.startswith(" ") and not in_item:
            end_of_paragraph()
            lines.extend(_command(line, width))
        else:
            if line.startswith("- "):
                end_of_paragraph()
            paragraph.append(line)
    end_of_paragraph()
    return lines


def _command(line, width):
    """Break a command before its options, so that each stays with its values."""
    if len(line.rstrip()) <= width:
        return [line.rstrip()]
    lines = []
    for part in re.split(r" (?=--)", line.rstrip()):
        if lines and len(lines[-1]) + 1 + len(part) <= width - 2:
            lines[-1] += f" {part}"
        else:
            lines.append(f"        {part}" if lines else part)
    return [*(f"{part} \\" for part in lines[:-1]), lines[-1]]


def usage(parser, actions):
    """The usage of a command: in full where it is short, otherwise what must be given.

    Args:
        parser: `argparse.ArgumentParser`.
        actions: Its options and arguments.

    Returns:
        Lines of text without a line break at the end.
    """
    full = parser.format_usage().rstrip()
    if full.count("\n") < _USAGE_LINES:
        return full
    rest = argparse.Action([], dest="options", nargs="?", metavar="options")
    options = [action for action in actions if action.option_strings and action.required]
    arguments = [action for action in actions if not action.option_strings]
    formatter = parser.formatter_class(prog=parser.prog)
    formatter.add_usage(None, [*options, rest, *arguments], [])
    return formatter.format_help().rstrip()
