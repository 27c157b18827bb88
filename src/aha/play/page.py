"""A scene as HTML, for the page of `aha play --web`. No web framework here.

Everything that a model or a person wrote goes through `_safe`: control characters written out,
markup escaped, and the signs that the page's template engine reads as entities, so that a text is
only ever text. Colours always come with a sign.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

from aha.play.checked import Checked, Line, Mark, Piece, check
from aha.play.problems import written
from aha.play.scene import Lane, Row, Scene
from aha.play.view import UNICODE, summary
from aha.play.words import Kind, Tally, outcome, players, speed, sums
from aha.tasks import task_of
from aha.types import Problem
from aha.visible import visible

_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
_TITLES: dict[Mark, str] = {
    "turn": "turns back",
    "check": "checks itself",
    "plan": "sets a goal, or reasons from it",
}


def style() -> str:
    """The page's own style sheet."""
    return (resources.files("aha.play") / "page.css").read_text(encoding="utf-8")


def heading(names: Sequence[str]) -> str:
    """What stands above everything: who plays."""
    same = ", on the same problem and with the same random numbers" if len(names) > 1 else ""
    who = f"{_safe(players(names))}{same}."
    return f'<div class="aha"><h1>aha play</h1><p class="aha-who">{who}</p></div>'


def waiting() -> str:
    """What stands where the game will be."""
    return (
        '<div class="aha"><p class="aha-empty">Type a problem, choose one, or take a random one. '
        "Every sum is checked while it is written.</p></div>"
    )


def refusal(message: str) -> str:
    """A sentence on why there is no game."""
    return f'<div class="aha"><p class="aha-refusal" role="alert">{_safe(message)}</p></div>'


def game(scene: Scene, tally: Tally) -> str:
    """The scene; once it is over, with its summary and the tally."""
    parts = [_problem(scene), '<div class="aha-lanes">']
    parts += [_lane(lane, scene.problem) for lane in scene.lanes]
    parts.append("</div>")
    if scene.over:
        said = [sentence for sentence in (*summary(scene), str(tally)) if sentence]
        lines = "".join(f"<p>{_safe(sentence)}</p>" for sentence in said)
        parts.append(f'<div class="aha-summary" role="status">{lines}</div>')
    parts.append(_LEGEND)
    return f'<div class="aha">{"".join(parts)}</div>'


_LEGEND = (
    '<p class="aha-legend">'
    f'<span class="m-true">1 + 1 = 2<span class="sign">{UNICODE.true}</span></span> true '
    f'<span class="m-false">1 + 1 = 3<span class="sign">{UNICODE.false}</span></span> false '
    f'<span class="aha-note">{UNICODE.missing}</span> a number that is not there '
    '<span class="aha-nums"><span class="n on">3</span><span class="n">5</span></span> '
    "the try has used 3, not yet 5</p>"
)


def _safe(text: object) -> str:
    return html.escape(visible(str(text)), quote=True).translate(_TEMPLATE_SIGNS)


def _problem(scene: Scene) -> str:
    columns = scene.problem.columns
    task = task_of(columns)
    if pool := task.pool(columns):
        numbers = "".join(f'<span class="n on">{_safe(n)}</span>' for n in pool)
        asked = (
            f"Make <strong>{_safe(task.goal(columns))}</strong> from "
            f'<span class="aha-nums">{numbers}</span>'
        )
    else:
        asked = _safe(written(scene.problem))
    notes = "".join(f'<p class="aha-caution">{_safe(note)}</p>' for note in scene.notes)
    return f'<div class="aha-problem">{asked}</div>{notes}'


def _lane(lane: Lane, problem: Problem) -> str:
    rows = "".join(_row(row, problem) for row in lane.rows)
    return (
        f'<section class="aha-lane" aria-label="{_safe(lane.name)}"><header>'
        f'<h2>{_safe(lane.name)}</h2><span class="aha-speed">{_safe(speed(lane))}</span>'
        f"</header>{rows}</section>"
    )


def _row(row: Row, problem: Problem) -> str:
    checked = check(row.partial.text, problem, row.partial.finish_reason is not None)
    nums = task_of(problem.columns).pool(problem.columns)
    lines = "".join(_line(line, nums) for line in checked.lines)
    status = _status(row, checked, problem)
    return f'<div class="aha-row"><div class="aha-text">{lines}</div>{status}</div>'


def _line(line: Line, nums: Sequence[Any]) -> str:
    text = "".join(map(_piece, line.pieces))
    chips = "" if line.used is None else _chips(line.used, nums)
    return f'<div class="aha-line"><span class="aha-words">{text}</span>{chips}</div>'


def _piece(piece: Piece) -> str:
    if not piece.mark:
        return _safe(piece.text)
    title = _TITLES.get(piece.mark, "")
    hint = f' title="{title}"' if title else ""
    sign = ""
    if piece.mark in ("true", "false"):
        shown = UNICODE.reading(piece.mark == "true")
        sign = f'<span class="sign" role="img" aria-label="{piece.mark}">{shown}</span>'
    note = (
        f' <span class="aha-note">{UNICODE.missing} {_safe(piece.note)}</span>'
        if piece.note
        else ""
    )
    return f'<span class="m-{piece.mark}"{hint}>{_safe(piece.text)}{sign}</span>{note}'


def _chips(used: Sequence[bool], nums: Sequence[Any]) -> str:
    chips = "".join(
        f'<span class="n{" on" if on else ""}">{_safe(n)}</span>'
        for n, on in zip(nums, used, strict=True)
    )
    left = ", ".join(str(n) for n, on in zip(nums, used, strict=True) if not on)
    said = f"left in this try: {left}" if left else "this try uses every number"
    return f'<span class="aha-nums" role="img" aria-label="{_safe(said)}">{chips}</span>'


def _status(row: Row, checked: Checked, problem: Problem) -> str:
    found = outcome(row, checked, problem)
    details = " \u00b7 ".join(_details(found.kind, checked))
    return (
        f'<p class="aha-outcome k-{found.kind}"><span class="sign">{UNICODE.of(found.kind)}</span> '
        f'{_safe(found.text)}</p><p class="aha-details">{_safe(details)}</p>'
    )


def _details(kind: Kind, checked: Checked) -> Iterator[str]:
    if sums(checked):
        yield sums(checked)
    if kind in ("right", "lenient", "wrong"):
        yield f"strict {UNICODE.reading(kind == 'right')}"
        yield f"lenient {UNICODE.reading(kind != 'wrong')}"
