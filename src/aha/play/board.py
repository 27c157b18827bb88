"""The buttons of the page of `aha play --web`, and what each does.

What a browser sends is checked here, whatever the page allows to type. Left out: anything that is
kept. A page that is closed is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from aha.play import page
from aha.play.frames import frames
from aha.play.limits import Limiter
from aha.play.problems import MAX_CHARACTERS, written
from aha.play.session import Draw, Session
from aha.play.words import Tally
from aha.tasks import TASKS
from aha.types import RunFailure, UserError
from aha.visible import quoted

if TYPE_CHECKING:
    from gradio import Blocks

MAX_SAMPLES = 8
GAMES_PER_MINUTE = 30
WAITING_GAMES = 8
FASTEST_PACE = 200
HOTTEST = 2.0
_LISTED = 30


@dataclass(frozen=True)
class Visit:
    """What an open page remembers: how many games it had, and how they went."""

    games: int = 0
    tally: Tally = field(default_factory=Tally)


class Page:
    """What the page's buttons do, without the buttons: what is to be shown, moment by moment."""

    def __init__(self, session: Session, draw: Draw, limiter: Limiter) -> None:
        self._session = session
        self._draw = draw
        self._limiter = limiter

    def play(
        self, text: Any, samples: Any, temperature: Any, tokens: Any, pace: Any, visit: Visit
    ) -> Generator[tuple[str, Visit], None, None]:
        """A game of the typed problem; a sentence when there can be none."""
        try:
            self._require_time()
            problem = self._session.typed(str(text or ""))
            scenes = self._session.play(problem, self._drawn(samples, temperature, tokens, visit))
            speed = _number("the pace", pace, 0, FASTEST_PACE)
            with closing(frames(self._session, scenes, speed)) as shown:
                visit = replace(visit, games=visit.games + 1)
                for scene in shown:
                    if scene.over:
                        visit = replace(visit, tally=visit.tally.with_game(scene))
                    yield page.game(scene, visit.tally), visit
        except (UserError, RunFailure) as error:
            yield page.refusal(str(error)), visit

    def random_problem(self, visit: Visit) -> str:
        """A held-out problem, as a person would type it. Errors: UserError as `held_out`."""
        return written(self._session.random_problem(self._draw.seed + visit.games))

    def _require_time(self) -> None:
        wait = self._limiter.admit()
        if wait:
            raise UserError(
                f"at most {GAMES_PER_MINUTE} games a minute are played here; the next one can "
                f"begin in {math.ceil(wait)} s."
            )

    def _drawn(self, samples: Any, temperature: Any, tokens: Any, visit: Visit) -> Draw:
        return Draw(
            int(_number("samples", samples, 1, MAX_SAMPLES)),
            _number("temperature", temperature, 0, HOTTEST),
            self._draw.seed + visit.games,
            int(_number("tokens", tokens, 1, self._session.limit)),
        )


def _number(name: str, value: Any, low: float, high: float) -> float:
    """A number from a browser. Errors: UserError for what is none, or out of range."""
    if isinstance(value, int | float) and low <= value <= high:
        return float(value)
    raise UserError(f"{name} is {quoted(value)}; allowed are {low:g} to {high:g}.")


def build(session: Session, draw: Draw, pace: float) -> Blocks:
    """The page as gradio has it; nothing is served yet."""
    import gradio as gr

    game = Page(session, draw, Limiter(GAMES_PER_MINUTE))
    blocks: Blocks = gr.Blocks(analytics_enabled=False, title="aha play")
    with blocks:
        visit = gr.State(Visit())
        _html(page.heading([side.name for side in session.sides]))
        choices = _choices(session)
        problem, chosen = _fields(_example(session), choices)
        with gr.Row():
            play = gr.Button("Play", variant="primary", min_width=70, scale=2, elem_id="play")
            anything = gr.Button(
                "Random",
                min_width=140,
                scale=2,
                visible=bool(choices),
                elem_id="random",
            )
            stop = gr.Button("Stop", min_width=70, elem_id="stop")
        asked = [problem, *_settings(session, draw, pace), visit]
        shown = [_html(page.waiting(), "game"), visit]
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # One game at a time, whichever button began it.
        one: dict[str, Any] = {**quiet, "concurrency_limit": 1, "concurrency_id": "game"}
        drawn = anything.click(game.random_problem, [visit], [problem], **quiet)
        games: list[Any] = [
            play.click(game.play, asked, shown, **one),
            problem.submit(game.play, asked, shown, **one),
            drawn.then(game.play, asked, shown, **one),
        ]
        chosen.input(lambda text: text or "", [chosen], [problem], **quiet)
        stop.click(None, cancels=games, api_visibility="private")
    blocks.queue(max_size=WAITING_GAMES, default_concurrency_limit=1, api_open=False)
    return blocks


def _fields(example: str, choices: Sequence[str]) -> tuple[Any, Any]:
    """Where a problem is typed, and where one is chosen."""
    import gradio as gr

    with gr.Row(equal_height=True):
        problem = gr.Textbox(
            label="Problem",
            placeholder=example,
            max_length=MAX_CHARACTERS,
            max_lines=4,
            scale=4,
            min_width=240,
            elem_id="problem",
        )
        chosen = gr.Dropdown(
            list(choices),
            value=None,
            label="or a held-out one",
            visible=bool(choices),
            scale=2,
            min_width=180,
            elem_id="held-out",
        )
    return problem, chosen


def _settings(session: Session, draw: Draw, pace: float) -> list[Any]:
    """How to draw and to show, folded away: samples, temperature, tokens, pace."""
    import gradio as gr

    samples, heat = min(draw.samples, MAX_SAMPLES), min(draw.temperature, HOTTEST)
    with gr.Accordion("Settings", open=False), gr.Row():
        return [
            gr.Slider(low, high, value, step=step, label=label, min_width=200)
            for low, high, value, step, label in (
                (1, MAX_SAMPLES, samples, 1, "Samples of each model"),
                (0, HOTTEST, heat, 0.05, "Temperature (0: greedy)"),
                (1, session.limit, session.limit, 1, "Tokens at most"),
                (0, FASTEST_PACE, min(pace, FASTEST_PACE), 5, "Tokens/s to show (0: all speed)"),
            )
        ]


def _html(value: str, name: str | None = None) -> Any:
    import gradio as gr

    return gr.HTML(value, elem_id=name, js_on_load=None, apply_default_css=False)


def _choices(session: Session) -> list[str]:
    """Some held-out problems; none where they cannot be read, which typing does without."""
    try:
        return [written(problem) for problem in session.held_out[:_LISTED]]
    except UserError:
        return []


def _example(session: Session) -> str:
    return TASKS[session.recipe.task.name].example
