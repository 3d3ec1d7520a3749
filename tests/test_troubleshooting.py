"""The messages on the page of troubleshooting are those of the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
MESSAGES = re.findall(r"^\| ``(?!`) ?(.*?)(?<!`) ?`` \|", PAGE, re.MULTILINE)


def _texts():
    """All texts of the code, with `\\0` for what is put in."""
    for folder in ("letkd_keras", "recipes", "export"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield re.sub(r"%[sd]", "\0", node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (getattr(part, "value", None) for part in node.values)
                    yield "".join(part if isinstance(part, str) else "\0" for part in parts)


@pytest.fixture(scope="module")
def texts():
    return set(_texts())


def test_the_page_has_many_messages():
    assert len(MESSAGES) > 55


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:50])
def test_the_code_has_the_message(texts, message):
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip(" .;:,()%")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in texts)
