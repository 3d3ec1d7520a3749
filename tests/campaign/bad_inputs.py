"""The table of bad command lines, and how a row of it is run."""

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from command_in_process import run_command
from material import ALIASES, damage

# Far more than any of them needs; a command that begins to train takes longer.
_SECONDS = 30
TABLE = Path(__file__).with_name("bad_command_lines.txt")


@dataclass(frozen=True)
class BadInput:
    """A row of the table.

    Attributes:
        line: The command line without `python -m letkd_keras.`. `{NAME}` is a copy of something
            that `make_material` wrote, `{NAME:DAMAGE}` a damaged copy, and `{NAME/FILE:DAMAGE}` a
            copy of a folder with a damaged file in it.
        sentence: What the command must answer; `...` stands for anything.
    """

    line: str
    sentence: str

    @property
    def pattern(self):
        """The sentence as a regular expression."""
        return ".*".join(map(re.escape, self.sentence.split("...")))

    def run(self, material, folder):
        """Run the command in an empty folder; returns `Ended`."""
        module, *words = shlex.split(self.line)
        words = [
            part for word in words for part in shlex.split(ALIASES.get(word, shlex.quote(word)))
        ]
        files = _Copies(material, folder / "given")
        words = [re.sub(r"\{([^}]+)\}", lambda match: str(files.copy(match[1])), w) for w in words]
        return run_command(f"letkd_keras.{module}", words, folder)

    def check(self, material, folder):
        """Run the command in an empty folder and check how it ends."""
        ended = self.run(material, folder)
        assert not ended.traceback, ended.traceback
        assert ended.status == 2, ended
        assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
        answer = ended.stderr.removeprefix("error: ").rstrip("\n")
        assert re.fullmatch(self.pattern, answer), f"expected {self.sentence!r}, not {answer!r}"
        assert ended.changed == ()
        assert ended.seconds < _SECONDS


class _Copies:
    def __init__(self, material, folder):
        self.material, self.folder = material, folder
        folder.mkdir()

    def copy(self, text):
        """Copy what a placeholder names and damage it; returns the path of the copy."""
        name, _, kind = text.partition(":")
        top, _, inner = name.partition("/")
        if top == "bad":
            top, inner = name, ""
        source, target = self.material / top, self.folder / top
        target.parent.mkdir(exist_ok=True)
        if source.is_symlink():
            target.symlink_to(target.name)
        elif source.is_dir() and not target.exists():
            # A pipe cannot be copied.
            shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
        elif source.is_file():
            shutil.copy2(source, target)
        if kind:
            damage(target / inner if inner else target, kind)
        return target


def _copy_file(source, target):
    if Path(source).is_fifo():
        os.mkfifo(target)
    else:
        shutil.copy2(source, target)


def read_table(path=TABLE):
    """The rows of the table, by the heading that they stand under.

    Returns:
        Dictionary from headings to lists of `BadInput`.
    """
    table, lines = {}, iter(Path(path).read_text().splitlines())
    for line in lines:
        if line.startswith("# ==="):
            rows = table.setdefault(line.strip("# ="), [])
        elif line and not line.startswith("#"):
            rows.append(BadInput(line, next(lines).strip()))
    return table
