"""A scene for a terminal: panels side by side, or plain lines where there is no terminal.

Model text becomes `Text`, never markup, with control characters written out, so it can neither
style nor steer the terminal. Colours always come with a sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from aha.play.checked import Checked, Line, Mark, check
from aha.play.problems import written
from aha.play.scene import Row, Scene
from aha.play.words import Kind, lane_summary, outcome, parting, speed, sums
from aha.tasks import task_of
from aha.types import Problem
from aha.visible import visible

_SIDE_BY_SIDE = 90  # columns; on narrower terminals one model stands below the other
_BORDERS = ("blue", "magenta")
_STYLES: dict[Mark, str] = {
    "": "",
    "true": "green",
    "false": "bold red",
    "turn": "bold yellow",
    "check": "cyan",
    "plan": "magenta",
    "tag": "dim",
}
_KINDS: dict[Kind, str] = {
    "writing": "dim",
    "right": "bold green",
    "lenient": "bold yellow",
    "wrong": "bold red",
    "unknown": "yellow",
}


@dataclass(frozen=True)
class Signs:
    """What stands beside a colour, for those who do not see it."""

    true: str = "\u2713"
    false: str = "\u2717"
    missing: str = "\u26a0"
    writing: str = "\u2026"
    lenient: str = "\u223c"
    dot: str = "\u00b7"

    def reading(self, right: bool) -> str:
        return self.true if right else self.false

    def of(self, kind: Kind) -> str:
        signs: dict[Kind, str] = {
            "writing": self.writing,
            "right": self.true,
            "lenient": self.lenient,
            "wrong": self.false,
            "unknown": "?",
        }
        return signs[kind]


UNICODE = Signs()
ASCII = Signs("(ok)", "(NO)", "!", "...", "~", "-")


def signs_for(console: Console) -> Signs:
    """Signs that the console's encoding has."""
    return ASCII if console.options.ascii_only else UNICODE


def legend(signs: Signs) -> str:
    """What the marks mean, on one line."""
    return (
        f"{signs.true} true  {signs.false} false  {signs.missing} a number that is not there  "
        "[3,13,_] the numbers that the try has used"
    )


def panels(scene: Scene, console: Console, signs: Signs, fit: bool) -> RenderableType:
    """The scene in boxes; with `fit`, texts too long for the screen are shown from their end."""
    beside = console.width >= _SIDE_BY_SIDE and len(scene.lanes) > 1
    rows = max(len(lane.rows) for lane in scene.lanes)
    stacked = 1 if beside else len(scene.lanes)
    # A heading of two lines, an edge above and below each box, three lines of each row besides.
    left = (console.height - 3 - 2 * stacked) // (rows * stacked) - 3
    height = max(1, left) if fit else None
    width = console.width // (len(scene.lanes) if beside else 1) - 4
    boxes = [
        Panel(
            Text("\n\n").join(
                _row(row, scene.problem, signs, console, width, height) for row in lane.rows
            ),
            title=Text(visible(lane.name), style="bold"),
            subtitle=Text(speed(lane), style="dim") if speed(lane) else None,
            border_style=border,
        )
        for lane, border in zip(scene.lanes, _BORDERS, strict=False)
    ]
    if not beside:
        return Group(_heading(scene), *boxes)
    table = Table.grid(expand=True)
    for _ in boxes:
        table.add_column(ratio=1)
    table.add_row(*boxes)
    return Group(_heading(scene), table)


def plain(scene: Scene, signs: Signs) -> Group:
    """The scene as lines, one model after the other."""
    parts: list[Text] = [_heading(scene)]
    for lane in scene.lanes:
        parts.append(Text(f"\n{visible(lane.name)}, {speed(lane)}"))
        for row in lane.rows:
            checked = _checked(row, scene.problem)
            parts += [Text("  ") + text for text in _lines(checked, scene.problem, signs)]
            parts += [
                Text("  ") + text for text in _status(row, checked, scene.problem, signs).split()
            ]
    return Group(*parts)


def summary(scene: Scene) -> Iterator[str]:
    """What became of a game that is over, beyond what its rows say: a sentence each."""
    if any(len(lane.rows) > 1 for lane in scene.lanes):
        for lane in scene.lanes:
            yield f"{lane.name}: {lane_summary(lane, scene.problem)}"
    if said := parting(scene):
        yield said


def _heading(scene: Scene) -> Text:
    columns = scene.problem.columns
    make = "Make " if task_of(columns).pool(columns) else ""
    heading = Text(f"{make}{visible(written(scene.problem))}", style="bold")
    for note in scene.notes:
        heading.append(f"\n{note}", style="yellow")
    return heading


def _row(
    row: Row, problem: Problem, signs: Signs, console: Console, width: int, height: int | None
) -> Text:
    checked = _checked(row, problem)
    text = Text("\n").join(_lines(checked, problem, signs))
    if height is not None:
        text = Text("\n").join(list(text.wrap(console, width))[-height:])
    return Text("\n").join([text, _status(row, checked, problem, signs)])


def _checked(row: Row, problem: Problem) -> Checked:
    return check(row.partial.text, problem, row.partial.finish_reason is not None)


def _lines(checked: Checked, problem: Problem, signs: Signs) -> list[Text]:
    nums = task_of(problem.columns).pool(problem.columns)
    return [_line(line, nums, signs) for line in checked.lines]


def _line(line: Line, nums: Sequence[Any], signs: Signs) -> Text:
    text = Text()
    for piece in line.pieces:
        text.append(visible(piece.text), style=_STYLES[piece.mark])
        if piece.mark in ("true", "false"):
            sign = signs.true if piece.mark == "true" else signs.false
            text.append(f" {sign}", style=_STYLES[piece.mark])
        if piece.note:
            text.append(f" {signs.missing} {piece.note}", style="bold red")
    if line.used is not None:
        shown = (str(n) if used else "_" for n, used in zip(nums, line.used, strict=True))
        text.append(f" [{','.join(shown)}]", style="dim")
    return text


def _status(row: Row, checked: Checked, problem: Problem, signs: Signs) -> Text:
    """How a row stands: what became of it, and below that what was checked."""
    found = outcome(row, checked, problem)
    text = Text(f"{signs.of(found.kind)} {visible(found.text)}", style=_KINDS[found.kind])
    details = [sums(checked)] if sums(checked) else []
    if found.known:
        details.append(f"strict {signs.reading(found.strict)}")
        details.append(f"lenient {signs.reading(found.lenient)}")
    if details:
        text.append(f"\n  {f' {signs.dot} '.join(details)}", style="not bold dim default")
    return text
