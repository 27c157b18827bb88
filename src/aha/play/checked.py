"""A text in the making, cut into lines and marked for what can be checked in it.

The equations are checked (`aha.answers.equations`), and in Countdown also that the numbers of each
may be used: given, or reached before in the same try. Phrases that show a behaviour
(`aha.reasoning.behaviours`) are marked. Left out: whether "not 15" or "yes" is said rightly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from aha.answers.equations import WrittenStep, written_steps
from aha.play.numbers import Tries
from aha.reasoning.behaviours import Passage, find_behaviours
from aha.tasks import TASKS, task_of
from aha.types import Problem

Mark = Literal["", "true", "false", "turn", "check", "plan", "tag"]

_TAG = re.compile(r"</?(?:think|reasoning|answer)>", re.IGNORECASE)
_THOUGHTS_END = re.compile(r"</(?:think|reasoning)>", re.IGNORECASE)
_MARKS: Mapping[str, Mark] = {
    "self_check": "check",
    "backtracking": "turn",
    "subgoals": "plan",
    "backward_chaining": "plan",
}
# What may still become part of an equation that a text in the making ends with.
_OPEN_END = re.compile("[0-9+\\-*/().,$\u20ac\u00a3%=\u2248 \t\u00d7\u00f7\u2212]*")
_CLOSED = re.compile("[.,] ")


@dataclass(frozen=True)
class Piece:
    """A part of a line; `note` says in words what a mark does not."""

    text: str
    mark: Mark = ""
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a text.

    `used` says of each number of a Countdown problem whether the try that the line belongs to has
    used it by then; None where no equation of the line says so.
    """

    pieces: tuple[Piece, ...]
    used: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class Checked:
    """A text line by line, how many of its judged equations are true and false, and how often it
    turned back."""

    lines: tuple[Line, ...]
    true: int
    false: int
    turns: int


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    mark: Mark
    note: str = ""
    used: tuple[bool, ...] | None = None


def check(text: str, problem: Problem, finished: bool = True) -> Checked:
    """The text of a completion as it stands; of an unfinished one, what is beyond doubt.

    A new line begins where the text has one, where it turns back, and where its thoughts end.
    """
    steps = [step for step in written_steps(text) if finished or _is_over(text, step)]
    passages = find_behaviours(text, TASKS[problem.task].rules)
    turns = [passage.start for passage in passages if passage.behaviour == "backtracking"]
    spans = [
        *(_Span(tag.start(), tag.end(), "tag") for tag in _TAG.finditer(text)),
        *_step_spans(text, steps, turns, problem),
        *_phrase_spans(passages, steps),
    ]
    ends = [tag.start() for tag in _THOUGHTS_END.finditer(text)]
    true = sum(step.true for step in steps)
    lines = _lines(text, sorted({*turns, *ends}), _without_overlaps(spans))
    return Checked(tuple(lines), true, len(steps) - true, len(turns))


def _is_over(text: str, step: WrittenStep) -> bool:
    """Whether nothing that may still be written becomes part of the equation."""
    open_end = _OPEN_END.match(text, step.end)
    assert open_end is not None  # an empty one matches
    return open_end.end() < len(text) or _CLOSED.search(text, step.end) is not None


def _step_spans(
    text: str, steps: Sequence[WrittenStep], turns: Sequence[int], problem: Problem
) -> Iterator[_Span]:
    pool = task_of(problem.columns).pool(problem.columns)
    tries = Tries(pool) if pool else None
    last = 0
    for step in steps:
        uses = None
        if tries is not None:
            if any(last <= turn <= step.start for turn in turns):
                tries.begin()
            goes_on = last > 0 and not text[last : step.start].strip()
            uses = tries.follow(text[step.start : step.end], goes_on)
        last = step.end
        mark: Mark = "true" if step.true else "false"
        if uses is None:
            yield _Span(step.start, step.end, mark)
        else:
            yield _Span(step.start, step.end, mark, ", ".join(uses.faults), uses.used)


def _phrase_spans(passages: Sequence[Passage], steps: Sequence[WrittenStep]) -> Iterator[_Span]:
    """The phrases without the equations in them, which have marks of their own."""
    for passage in passages:
        start = passage.start
        for step in steps:
            if step.end <= start or step.start >= passage.end:
                continue
            if step.start > start:
                yield _Span(start, step.start, _MARKS[passage.behaviour])
            start = step.end
        if start < passage.end:
            yield _Span(start, passage.end, _MARKS[passage.behaviour])


def _without_overlaps(spans: Sequence[_Span]) -> list[_Span]:
    """The spans in order; of two that overlap, the one that stands first here and begins first."""
    kept: list[_Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _lines(text: str, cuts: Sequence[int], spans: Sequence[_Span]) -> Iterator[Line]:
    """The lines of the text, cut also at `cuts`; those without a word are left out."""
    breaks = [0, *cuts, *(place + 1 for place, c in enumerate(text) if c == "\n"), len(text)]
    edges = sorted(set(breaks))
    first = 0
    for start, end in pairwise(edges):
        while first < len(spans) and spans[first].end <= start:
            first += 1
        pieces, used, position = [], None, start
        for span in spans[first:]:
            if span.start >= end:
                break
            begin, stop = max(span.start, start), min(span.end, end)
            pieces += [Piece(text[position:begin]), Piece(text[begin:stop], span.mark, span.note)]
            used, position = span.used or used, stop
        line = _stripped([*pieces, Piece(text[position:end])])
        if line:
            yield Line(tuple(line), used)


def _stripped(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces that hold something, without blanks at the line's ends."""
    left = [piece for piece in pieces if piece.text]
    while left and not left[0].text.strip():
        del left[0]
    while left and not left[-1].text.strip():
        del left[-1]
    if left:
        left[0] = Piece(left[0].text.lstrip(), left[0].mark, left[0].note)
        left[-1] = Piece(left[-1].text.rstrip(), left[-1].mark, left[-1].note)
    return left
