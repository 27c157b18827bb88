"""What became of a completion, a model and a game, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from aha.play.checked import Checked, check
from aha.play.scene import Lane, Row, Scene
from aha.tasks import task_of
from aha.types import Problem

_ALIKE = 5  # tokens in common that are worth a word

Kind = Literal["writing", "right", "lenient", "wrong", "unknown"]


@dataclass(frozen=True)
class Outcome:
    """How a row ended, in words; `known` when both readings of its answer mean something."""

    kind: Kind
    text: str

    @property
    def strict(self) -> bool:
        return self.kind == "right"

    @property
    def lenient(self) -> bool:
        return self.kind in ("right", "lenient")

    @property
    def known(self) -> bool:
        return self.kind in ("right", "lenient", "wrong")


def outcome(row: Row, checked: Checked, problem: Problem) -> Outcome:
    """What became of a completion."""
    tokens = _counted(len(row.partial.token_ids), "token")
    if row.verdict is None:
        return Outcome("writing", tokens)
    after = _after(checked.turns, problem)
    first = after or (" at the first try" if task_of(problem.columns).searches else "")
    cut_off = row.partial.finish_reason == "length"
    if not row.verdict.known:
        ending = "cut off" if cut_off else "ended"
        return Outcome("unknown", f"{ending}{after}, {tokens}; not judged: no answer is known")
    if row.verdict.strict:
        return Outcome("right", f"right{first}, {tokens}")
    if row.verdict.lenient:
        return Outcome("lenient", f"right{first}, but not in the layout, {tokens}")
    ending = f"cut off{after}" if cut_off else f"wrong{first}"
    return Outcome("wrong", f"{ending}, {tokens}: {row.why}")


def lane_summary(lane: Lane, problem: Problem) -> str:
    """One line on a model's rows, all ended: what became of the one, or how many are right."""
    checks = [check(row.partial.text, problem) for row in lane.rows]
    if len(lane.rows) == 1:
        return outcome(lane.rows[0], checks[0], problem).text
    lengths = fmean(len(row.partial.token_ids) for row in lane.rows)
    turns = fmean(checked.turns for checked in checks)
    parts = [f"{lengths:.0f} tokens and {turns:.1f} {_given_up(problem)} on average"]
    if lane.judged:
        lenient = sum(row.verdict is not None and row.verdict.lenient for row in lane.rows)
        also = f" ({lenient} lenient)" if lenient != lane.right else ""
        parts.insert(0, f"{lane.right} of {lane.judged} right{also}")
    return ", ".join(parts)


def parting(scene: Scene) -> str:
    """How far two models wrote the same; "" for anything but a pair of rows that began alike."""
    if [len(lane.rows) for lane in scene.lanes] != [1, 1]:
        return ""
    one, two = (lane.rows[0].partial.token_ids for lane in scene.lanes)
    if one == two:
        return "Both wrote the same."
    same = next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
    if same < _ALIKE:
        return ""
    return (
        f"Both drew with the same random numbers and wrote the same {same} tokens; then they part."
    )


def sums(checked: Checked) -> str:
    """How many of the judged equations are true; "" without any."""
    judged = checked.true + checked.false
    return f"{checked.true} of {_counted(judged, 'sum')} true" if judged else ""


def speed(lane: Lane) -> str:
    """The real speed of a model; "" before it has one."""
    return "" if lane.speed is None else f"{lane.speed:,.0f} tokens/s"


def players(names: Sequence[str]) -> str:
    """Who plays; alone, how there come to be two."""
    if len(names) > 1:
        return " beside ".join(names)
    return f"{names[0]} alone; --against MODEL, or a run of `aha train`, puts another beside it"


@dataclass(frozen=True)
class Tally:
    """How many completions each model has got right so far, of those that were judged."""

    names: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    judged: tuple[int, ...] = ()
    games: int = 0

    def with_game(self, scene: Scene) -> Tally:
        """The tally after one more game."""
        lanes = scene.lanes
        before = self if self.names else Tally((), (0,) * len(lanes), (0,) * len(lanes))
        return Tally(
            tuple(lane.name for lane in lanes),
            _sum(before.right, [lane.right for lane in lanes]),
            _sum(before.judged, [lane.judged for lane in lanes]),
            self.games + 1,
        )

    def __str__(self) -> str:
        """`so far: aha-tiny 1 of 5, mine 4 of 5`; "" before the second game."""
        if self.games < 2 or not any(self.judged):
            return ""
        scores = zip(self.names, self.right, self.judged, strict=True)
        return "so far: " + ", ".join(f"{name} {right} of {all_}" for name, right, all_ in scores)


def _sum(one: Sequence[int], two: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, two, strict=True))


def _after(turns: int, problem: Problem) -> str:
    if not turns:
        return ""
    if task_of(problem.columns).searches:
        return f" after {turns} given-up {'try' if turns == 1 else 'tries'}"
    return f" after turning back {'once' if turns == 1 else f'{turns} times'}"


def _given_up(problem: Problem) -> str:
    return "given-up tries" if task_of(problem.columns).searches else "turns back"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
