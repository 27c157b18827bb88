"""A game at one moment: each text so far, its sums checked, and its verdict, in plain words.

The terminal and the page draw the same scene. Sums are judged by `aha.answers.equations`. In a task
with numbers to use up (Countdown), a number may be used when it is given or was reached before in
the same try, each once. Phrases that show a behaviour (`aha.reasoning.behaviours`) are marked and
not judged. Left out: judging "not 15" or "yes", and using up numbers in sums whose worked-out side
has other than whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import groupby, pairwise
from statistics import fmean
from typing import Literal

from aha.answers.equations import WrittenStep, written_steps
from aha.answers.expression import ExpressionError, parse_equation
from aha.reasoning.behaviours import find_behaviours
from aha.rollout.base import Partial
from aha.tasks import TASKS, Task, Verdict, task_of
from aha.types import Problem

Mark = Literal["", "true", "false", "turn", "check", "plan", "tag"]
Kind = Literal["writing", "right", "lenient", "wrong", "unknown"]

_ALIKE = 5  # the fewest tokens in common that are worth a sentence
_TAG = re.compile(r"</?(?:think|reasoning|answer)>", re.IGNORECASE)
_MARKS: Mapping[str, Mark] = {
    "self_check": "check",
    "backtracking": "turn",
    "subgoals": "plan",
    "backward_chaining": "plan",
}
# Characters that may still become part of an equation at the end of an unfinished text.
_OPEN_END = re.compile("[0-9+\\-*/().,$\u20ac\u00a3%=\u2248 \t\u00d7\u00f7\u2212]*")
_CLOSED = re.compile("[.,] ")
_OPERATORS = tuple("+-*/\u00d7\u00f7\u2212")

# A sign for each mark and outcome, for people who do not see the colours.
SIGNS = {
    "true": "\u2713",
    "false": "\u2717",
    "missing": "\u26a0",
    "dot": "\u00b7",
    "writing": "\u2026",
    "right": "\u2713",
    "lenient": "\u223c",
    "wrong": "\u2717",
    "unknown": "?",
}


@dataclass(frozen=True)
class Piece:
    """A part of a line. `note` says in words what is wrong with a sum's numbers."""

    text: str
    mark: Mark = ""
    note: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a text.

    `used` tells for each number to use up if the line's try has used it by then; None where no
    sum of the line tells it.
    """

    pieces: tuple[Piece, ...]
    used: tuple[bool, ...] | None = None


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
        """The task that judges the completion."""
        return task_of(self.problem.columns)

    @cached_property
    def marked(self) -> MarkedText:
        """The text so far, line by line."""
        pool = self.task.pool(self.problem.columns)
        finished = self.partial.finish_reason is not None
        return mark_text(self.partial.text, pool, TASKS[self.problem.task].rules, finished)

    @property
    def kind(self) -> Kind:
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
        """How the completion ended, in words."""
        count = len(self.partial.token_ids)
        tokens = f"{count:,} token{'' if count == 1 else 's'}"
        if self.verdict is None:
            return tokens
        task, turns = self.task, self.marked.turns
        if turns and task.searches:
            after = f" after {turns} given-up {'try' if turns == 1 else 'tries'}"
        elif turns:
            after = f" after turning back {'once' if turns == 1 else f'{turns} times'}"
        else:
            after = ""
        cut_off = self.partial.finish_reason == "length"
        if self.kind == "unknown":
            ending = "cut off" if cut_off else "ended"
            return f"{ending}{after}, {tokens}; not judged: no answer is known"
        first = after or (" at the first try" if task.searches else "")
        if self.kind == "wrong":
            ending = f"cut off{after}" if cut_off else f"wrong{first}"
            why = task.why_wrong(self.verdict.answer, self.problem.columns)
            return f"{ending}, {tokens}: {why}"
        layout = "" if self.kind == "right" else ", but not in the layout"
        return f"right{first}{layout}, {tokens}"

    @property
    def details(self) -> str:
        """The sums that are true and both readings of the answer; "" when there are none."""
        found = []
        sums = self.marked.true + self.marked.false
        if sums:
            found.append(f"{self.marked.true} of {sums:,} sum{'' if sums == 1 else 's'} true")
        if self.kind in ("right", "lenient", "wrong"):
            found.append(f"strict {SIGNS['true' if self.kind == 'right' else 'false']}")
            found.append(f"lenient {SIGNS['false' if self.kind == 'wrong' else 'true']}")
        return f" {SIGNS['dot']} ".join(found)


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
        """The number of rows that are right in the strict reading."""
        return sum(row.kind == "right" for row in self.rows)

    @property
    def judged(self) -> int:
        """The number of rows with a verdict that has an answer to go by."""
        return sum(row.kind in ("right", "lenient", "wrong") for row in self.rows)

    @property
    def summary(self) -> str:
        """One line on rows that have all ended: the only one's outcome, or how many are right."""
        if len(self.rows) == 1:
            return self.rows[0].outcome
        tokens = fmean(len(row.partial.token_ids) for row in self.rows)
        turns = fmean(row.marked.turns for row in self.rows)
        turned = "given-up tries" if self.rows[0].task.searches else "turns back"
        average = f"{tokens:.0f} tokens and {turns:.1f} {turned} on average"
        if not self.judged:
            return average
        lenient = sum(row.kind in ("right", "lenient") for row in self.rows)
        also = f" ({lenient} lenient)" if lenient != self.right else ""
        return f"{self.right} of {self.judged} right{also}, {average}"


@dataclass(frozen=True)
class Scene:
    """A problem, notes on it, and every model's rows as they stand."""

    problem: Problem
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """The task that judges the completions."""
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


@dataclass(frozen=True, eq=False)
class _Span:
    start: int
    end: int
    mark: Mark = ""
    note: str = ""
    used: tuple[bool, ...] | None = None


def mark_text(
    text: str, pool: Sequence[int] = (), rules: str = "text", finished: bool = True
) -> MarkedText:
    """Mark the text of a completion; in an unfinished one, only sums that can no longer change.

    `pool` are the numbers to use up, and `rules` names the rules of behaviour that hold. A new
    line begins at a line break, where the text turns back, and where its thoughts end.
    """
    steps = [step for step in written_steps(text) if finished or _is_over(text, step)]
    passages = find_behaviours(text, rules)
    turns = [passage.start for passage in passages if passage.behaviour == "backtracking"]
    tags = list(_TAG.finditer(text))
    spans = [_Span(tag.start(), tag.end(), "tag") for tag in tags]
    spans += _step_spans(text, steps, turns, pool)
    spans += [_Span(one.start, one.end, _MARKS[one.behaviour]) for one in passages]
    # Each character belongs to the first span that holds it.
    unmarked = _Span(0, len(text))
    owners = [unmarked] * len(text)
    for span in reversed(spans):
        owners[span.start : span.end] = [span] * (span.end - span.start)
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
    open_end = _OPEN_END.match(text, step.end)
    assert open_end is not None  # the pattern also matches nothing
    return open_end.end() < len(text) or _CLOSED.search(text, step.end) is not None


def _line(text: str, start: int, end: int, owners: Sequence[_Span]) -> Line:
    """text[start:end] without the blanks at its ends, a piece for each run of one span."""
    stripped = text[start:end].lstrip()
    start, end = end - len(stripped), end - len(stripped) + len(stripped.rstrip())
    pieces: list[Piece] = []
    used = None
    for span, run in groupby(range(start, end), key=owners.__getitem__):
        places = list(run)
        pieces.append(Piece(text[places[0] : places[-1] + 1], span.mark, span.note))
        used = span.used or used
    return Line(tuple(pieces), used)


# A number that may be used, and the places of the given numbers that it is made of.
_Number = tuple[Fraction, frozenset[int]]


def _step_spans(
    text: str, steps: Sequence[WrittenStep], turns: Sequence[int], pool: Sequence[int]
) -> Iterator[_Span]:
    """The sums, each with what its try has used of the pool by then, and what is wrong with it.

    A try ends where the text turns back, and where a sum lacks a number but could begin anew.
    """
    given: list[_Number] = [(Fraction(n), frozenset({place})) for place, n in enumerate(pool)]
    there, used = given, frozenset[int]()
    reached: Fraction | None = None
    last = 0
    for step in steps:
        mark: Mark = "true" if step.true else "false"
        written = text[step.start : step.end]
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
            yield _Span(step.start, step.end, mark)
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
        yield _Span(step.start, step.end, mark, note, in_use)


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
