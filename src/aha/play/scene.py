"""A game at one moment: each text so far, its sums checked, and its verdict, in plain words.

The terminal and the page draw the same scene. `aha.answers.equations` judges sums. In Countdown a
number may be used when it is given or was reached before in the same try, each once. Phrases that
show a behaviour (`aha.reasoning.behaviours`) are marked and not judged. Left out: judging "not 15"
or "yes", and using up numbers in sums of other than whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from itertools import groupby, pairwise
from statistics import fmean
from typing import Any

from aha.answers.equations import WrittenStep, written_steps
from aha.answers.expression import ExpressionError, parse_equation
from aha.reasoning.behaviours import find_behaviours
from aha.rollout.base import Partial
from aha.tasks import TASKS, Task, Verdict, task_of
from aha.types import Problem
from aha.visible import package_yaml, text_template

# The signs and styles of marks and outcomes.
LOOKS: Mapping[str, Any] = package_yaml("aha.play", "looks.yaml")
SIGNS: Mapping[str, str] = LOOKS["signs"]

_ALIKE = 5  # the fewest tokens in common that are worth a sentence
_TAG = re.compile(r"</?(?:think|reasoning|answer)>", re.IGNORECASE)
# Characters that may still become part of an equation at the end of an unfinished text.
_OPEN_END = re.compile("[0-9+\\-*/().,$\u20ac\u00a3%=\u2248 \t\u00d7\u00f7\u2212]*")
_CLOSED = re.compile("[.,] ")
_OPERATORS = tuple("+-*/\u00d7\u00f7\u2212")


@dataclass(frozen=True)
class Piece:
    """A part of a text from `start` on, with a mark of `looks.yaml`.

    For a sum, `note` says what is wrong with its numbers, and `used` tells for each number to use
    up if the try has used it by then.
    """

    start: int
    text: str
    mark: str = ""
    note: str = ""
    used: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class Line:
    """A line of a text, without the blanks at its ends."""

    pieces: tuple[Piece, ...]

    @property
    def used(self) -> tuple[bool, ...] | None:
        """`used` of the last sum that tells it."""
        return next((piece.used for piece in reversed(self.pieces) if piece.used), None)


@dataclass(frozen=True)
class MarkedText:
    """The lines of a text, its true and its false sums, and how often it turned back."""

    lines: tuple[Line, ...]
    true: int
    false: int
    turns: int


@dataclass(frozen=True)
class Row:
    """One completion: its problem, its text so far, and its verdict once it has ended."""

    problem: Problem
    partial: Partial
    verdict: Verdict | None = None

    @property
    def task(self) -> Task:
        return task_of(self.problem.columns)

    @cached_property
    def marked(self) -> MarkedText:
        pool = self.task.pool(self.problem.columns)
        finished = self.partial.finish_reason is not None
        return mark_text(self.partial.text, pool, TASKS[self.problem.task].rules, finished)

    @property
    def kind(self) -> str:
        """How the completion ended, or that it is still written."""
        if self.verdict is None:
            return "writing"
        if not self.verdict.known:
            return "unknown"
        if self.verdict.strict:
            return "right"
        return "lenient" if self.verdict.lenient else "wrong"

    @property
    def outcome(self) -> str:
        return str(_words().outcome(self))

    @property
    def details(self) -> str:
        """The sums that are true and both readings of the answer; "" when there are none."""
        return str(_words().details(self, SIGNS))


@cache
def _words() -> Any:
    return text_template("aha.play", "words.txt.j2").module


@dataclass(frozen=True)
class Lane:
    """One model's rows.

    `written` tokens took `seconds` of the model's own steps. Reading the prompt counts, and the
    other model's steps do not. A scene may show fewer tokens than were written.
    """

    name: str
    rows: tuple[Row, ...]
    written: int = 0
    seconds: float = 0.0

    @property
    def speed(self) -> str:
        """Tokens a second, of all rows together; "" before there are any."""
        if not (self.written and self.seconds):
            return ""
        return f"{self.written / self.seconds:,.0f} tokens/s"

    @property
    def over(self) -> bool:
        return all(row.partial.finish_reason is not None for row in self.rows)

    @property
    def right(self) -> int:
        return sum(row.kind == "right" for row in self.rows)

    @property
    def judged(self) -> int:
        """The number of rows that ended and have an answer to go by."""
        return sum(row.kind in ("right", "lenient", "wrong") for row in self.rows)

    @property
    def summary(self) -> str:
        """One line on rows that have all ended: the only one's outcome, or how many are right."""
        if len(self.rows) == 1:
            return self.rows[0].outcome
        tokens = fmean(len(row.partial.token_ids) for row in self.rows)
        turns = fmean(row.marked.turns for row in self.rows)
        lenient = sum(row.kind in ("right", "lenient") for row in self.rows)
        return str(_words().average(self, tokens, turns, lenient))


@dataclass(frozen=True)
class Scene:
    """A problem, notes on it, and every model's rows as they stand."""

    problem: Problem
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        return task_of(self.problem.columns)

    @property
    def heading(self) -> str:
        """The problem as it is asked."""
        make = "Make " if self.pool else ""
        return f"{make}{TASKS[self.problem.task].written(self.problem.columns)}"

    @property
    def pool(self) -> tuple[int, ...]:
        """The numbers that an answer must use once each; none in tasks without them."""
        return self.task.pool(self.problem.columns)

    @property
    def over(self) -> bool:
        return all(lane.over for lane in self.lanes)

    def summary(self) -> Iterator[str]:
        """Sentences on a game that is over, beyond what its rows say."""
        if any(len(lane.rows) > 1 for lane in self.lanes):
            for lane in self.lanes:
                yield f"{lane.name}: {lane.summary}"
        if [len(lane.rows) for lane in self.lanes] != [1, 1]:
            return
        one, two = (lane.rows[0].partial.token_ids for lane in self.lanes)
        same = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
        if one == two:
            yield "Both wrote the same."
        elif same >= _ALIKE:
            yield (
                f"Both drew with the same random numbers and wrote the same {same} tokens; then "
                "they part."
            )


def mark_text(
    text: str, pool: Sequence[int] = (), rules: str = "text", finished: bool = True
) -> MarkedText:
    """Mark a completion; in an unfinished one, only sums that can no longer change.

    `pool` are the numbers to use up, `rules` as in `Task`. A new line begins at a line break, where
    the text turns back, and where its thoughts end.
    """
    steps = [step for step in written_steps(text) if finished or _is_over(text, step)]
    passages = find_behaviours(text, rules)
    turns = [passage.start for passage in passages if passage.behaviour == "backtracking"]
    tags = list(_TAG.finditer(text))
    pieces = [Piece(tag.start(), tag.group(), "tag") for tag in tags]
    pieces += _sums(text, steps, turns, pool)
    for one in passages:
        mark = LOOKS["behaviours"][one.behaviour]
        pieces.append(Piece(one.start, text[one.start : one.end], mark))
    # Each character belongs to the first piece that holds it.
    owners = [Piece(0, text)] * len(text)
    for piece in reversed(pieces):
        length = len(piece.text)
        owners[piece.start : piece.start + length] = [piece] * length
    cuts = {0, len(text), *turns}
    cuts |= {tag.start() for tag in tags if tag.group().lower() in ("</think>", "</reasoning>")}
    cuts |= {place + 1 for place, character in enumerate(text) if character == "\n"}
    lines = [_line(text, start, end, owners) for start, end in pairwise(sorted(cuts))]
    true = sum(step.true for step in steps)
    return MarkedText(
        tuple(line for line in lines if line.pieces), true, len(steps) - true, len(turns)
    )


def _is_over(text: str, step: WrittenStep) -> bool:
    """True if nothing that may still be written can become part of the sum."""
    is_open = _OPEN_END.fullmatch(text, step.end) and not _CLOSED.search(text, step.end)
    return not is_open


def _line(text: str, start: int, end: int, owners: Sequence[Piece]) -> Line:
    """text[start:end] without the blanks at its ends, a piece for each run of one owner."""
    line = text[start:end]
    start += len(line) - len(line.lstrip())
    pieces = []
    for owner, run in groupby(range(start, start + len(line.strip())), owners.__getitem__):
        places = list(run)
        pieces.append(replace(owner, start=places[0], text=text[places[0] : places[-1] + 1]))
    return Line(tuple(pieces))


# A number that may be used, and the places of the given numbers that it is made of.
_Number = tuple[Fraction, frozenset[int]]


def _sums(
    text: str, steps: Sequence[WrittenStep], turns: Sequence[int], pool: Sequence[int]
) -> Iterator[Piece]:
    """The sums, each with what its try has used of the pool by then, and what is wrong with it.

    A try ends where the text turns back, and where a sum lacks a number but could begin anew.
    """
    given: list[_Number] = [(Fraction(n), frozenset({place})) for place, n in enumerate(pool)]
    there, used = given, frozenset[int]()
    reached: Fraction | None = None
    last = 0
    for step in steps:
        written = text[step.start : step.end]
        piece = Piece(step.start, written, "true" if step.true else "false")
        if any(last <= turn <= step.start for turn in turns):
            there, used, reached = given, frozenset(), None
        if reached is not None and not text[last : step.start].strip():
            # `- 5 = 5` right after `13 - 3 = 10` goes on from the 10.
            written = f"{reached} {written}" if written.startswith(_OPERATORS) else written
        last = step.end
        try:
            found = parse_equation(written) if pool else None
        except ExpressionError:
            found = None
        if found is None or len(found.expression.numbers) < 2:
            yield piece
            continue
        left, made_of, missing = _take(there, found.expression.numbers)
        if missing:
            anew = _take(given, found.expression.numbers)
            if not anew[-1]:
                left, made_of, missing = anew
                used = frozenset()
        # The text goes on from the result that it wrote, true or not.
        wrote = found.claimed_value
        reached = found.expression.value if wrote is None else wrote
        there = [*left, (reached, made_of)]
        used |= made_of
        note = ", ".join(f"{n} is {'used up' if n in pool else 'not there'}" for n in missing)
        in_use = tuple(place in used for place in range(len(pool)))
        yield replace(piece, note=note, used=in_use)


def _take(
    pool: Sequence[_Number], numbers: Sequence[int]
) -> tuple[list[_Number], frozenset[int], list[int]]:
    """The rest of the pool, the places of the numbers taken, and the numbers not found.

    If numbers are equal, the newest is taken.
    """
    left, taken, missing = list(pool), frozenset[int](), []
    for number in numbers:
        found = next((one for one in reversed(left) if one[0] == number), None)
        if found is None:
            missing.append(number)
        else:
            left.remove(found)
            taken |= found[1]
    return left, taken, missing
