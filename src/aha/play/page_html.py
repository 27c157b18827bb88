"""A scene as HTML, for the page of `aha play --web`. No web framework here.

Everything that a model or a person wrote goes through `_safe`, so that a text is only ever text.
Colours always come with a sign.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib import resources

from aha.play.scene import UNICODE, Line, Mark, Piece, Row, Scene
from aha.play.session import Tally, who_plays
from aha.tasks import task_of
from aha.visible import visible

# gradio's template engine reads these signs in HTML; as entities they are only text.
_TEMPLATE_SIGNS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
_TITLES: dict[Mark, str] = {
    "turn": "turns back",
    "check": "checks itself",
    "plan": "sets a goal, or reasons from it",
}
_LEGEND = (
    '<p class="aha-legend">'
    f'<span class="m-true">1 + 1 = 2<span class="sign">{UNICODE["true"]}</span></span> true '
    f'<span class="m-false">1 + 1 = 3<span class="sign">{UNICODE["false"]}</span></span> false '
    f'<span class="aha-note">{UNICODE["missing"]}</span> a number that is not there '
    '<span class="aha-nums"><span class="n on">3</span><span class="n">5</span></span> '
    "the try has used 3, not yet 5</p>"
)
WAITING = (
    '<div class="aha"><p class="aha-empty">Type a problem, choose one, or take a random one. '
    "Every sum is checked while it is written.</p></div>"
)


def style() -> str:
    """The page's own style sheet."""
    return (resources.files("aha.play") / "page.css").read_text(encoding="utf-8")


def heading_html(names: Sequence[str]) -> str:
    """The top of the page: who plays."""
    same = ", on the same problem and with the same random numbers" if len(names) > 1 else ""
    who = f"{_safe(who_plays(names))}{same}."
    return f'<div class="aha"><h1>aha play</h1><p class="aha-who">{who}</p></div>'


def refusal_html(message: str) -> str:
    """A sentence on why there is no game."""
    return f'<div class="aha"><p class="aha-refusal" role="alert">{_safe(message)}</p></div>'


def game_html(scene: Scene, tally: Tally) -> str:
    """The scene; once it is over, with its summary and the tally."""
    asked = _safe(scene.heading)
    if scene.pool:
        goal = str(task_of(scene.problem.columns).gold(scene.problem.columns))
        chips = _chips(scene.pool, [True] * len(scene.pool))
        asked = f"Make <strong>{_safe(goal)}</strong> from {chips}"
    parts = [f'<div class="aha-problem">{asked}</div>']
    parts += [f'<p class="aha-caution">{_safe(note)}</p>' for note in scene.notes]
    parts.append('<div class="aha-lanes">')
    for lane in scene.lanes:
        parts.append(
            f'<section class="aha-lane" aria-label="{_safe(lane.name)}"><header>'
            f'<h2>{_safe(lane.name)}</h2><span class="aha-speed">{_safe(lane.speed)}</span>'
            "</header>"
        )
        parts += [_row(row, scene.pool) for row in lane.rows]
        parts.append("</section>")
    parts.append("</div>")
    if scene.over:
        sentences = [sentence for sentence in (*scene.summary(), str(tally)) if sentence]
        lines = "".join(f"<p>{_safe(sentence)}</p>" for sentence in sentences)
        parts.append(f'<div class="aha-summary" role="status">{lines}</div>')
    return f'<div class="aha">{"".join(parts)}{_LEGEND}</div>'


def _row(row: Row, pool: Sequence[int]) -> str:
    lines = "".join(_line(line, pool) for line in row.marked.lines)
    return (
        f'<div class="aha-row"><div class="aha-text">{lines}</div>'
        f'<p class="aha-outcome k-{row.kind}"><span class="sign">{UNICODE[row.kind]}</span> '
        f'{_safe(row.outcome)}</p><p class="aha-details">{_safe(row.details(UNICODE))}</p></div>'
    )


def _line(line: Line, pool: Sequence[int]) -> str:
    text = "".join(map(_piece, line.pieces))
    chips = ""
    if line.used is not None:
        left = [str(n) for n, used in zip(pool, line.used, strict=True) if not used]
        said = f"left in this try: {', '.join(left)}" if left else "this try uses every number"
        chips = _chips(pool, line.used, f' role="img" aria-label="{_safe(said)}"')
    return f'<div class="aha-line"><span class="aha-words">{text}</span>{chips}</div>'


def _piece(piece: Piece) -> str:
    if not piece.mark:
        return _safe(piece.text)
    hint = f' title="{_TITLES[piece.mark]}"' if piece.mark in _TITLES else ""
    sign = note = ""
    if piece.mark in ("true", "false"):
        sign = UNICODE[piece.mark]
        sign = f'<span class="sign" role="img" aria-label="{piece.mark}">{sign}</span>'
    if piece.note:
        note = f' <span class="aha-note">{UNICODE["missing"]} {_safe(piece.note)}</span>'
    return f'<span class="m-{piece.mark}"{hint}>{_safe(piece.text)}{sign}</span>{note}'


def _chips(pool: Sequence[int], used: Sequence[bool], attributes: str = "") -> str:
    chips = "".join(
        f'<span class="n{" on" if on else ""}">{_safe(n)}</span>'
        for n, on in zip(pool, used, strict=True)
    )
    return f'<span class="aha-nums"{attributes}>{chips}</span>'


def _safe(text: object) -> str:
    """Text that others wrote, with control characters written out and all markup escaped."""
    return html.escape(visible(str(text)), quote=True).translate(_TEMPLATE_SIGNS)
