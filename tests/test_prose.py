"""Comments and docstrings say the thing, not a riddle about it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src").rglob("*.py"))

# A sentence that opens so makes the reader guess its subject: "What one of them meets while
# loading ends all of them" for "An error while loading stops every rank".
RIDDLES = re.compile(
    r"(What|Whether|Whatever|Who|Whom|Whose|Which|That (which|what)|Of (it|them|what|which))\b"
)
# Words that aha used where the field has another.
PRIVATE_WORDS = re.compile(r"\b(sick|in the making|Scorer|micro-batch)\b")


def sentences(path: Path) -> Iterator[str]:
    """Each docstring, and each block of comment lines."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""
    block, last = "", -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line = token.string.lstrip("# ")
            if token.start[0] == last + 1:
                block += f" {line}"
            else:
                yield block
                block = line
            last = token.start[0]
    yield block


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_no_riddle_opens_a_comment_or_docstring(path: Path) -> None:
    found = [text for text in sentences(path) if RIDDLES.match(text)]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_the_fields_words_are_used(path: Path) -> None:
    found = [text for text in sentences(path) if PRIVATE_WORDS.search(text)]
    assert not found


@pytest.mark.parametrize(
    "text",
    ["What one of them meets ends all.", "Whether it fits.", "Which rows (R,) have a stop."],
)
def test_the_check_finds_riddles(text: str) -> None:
    assert RIDDLES.match(text)


def test_the_check_reads_comments_and_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""One."""\n# Two\n# three.\nx = 1\n\n\ndef f():\n    """Four."""\n')
    assert {"One.", "Two three.", "Four."} <= set(sentences(path))
