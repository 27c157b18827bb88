"""`aha play`: a model and the one it began from, side by side on one problem."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace

from aha.types import UserError

DEFAULT_PORT = 8766


def play(
    model: str | None = None,
    against: str | None = None,
    *,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    max_tokens: int | None = None,
    problem: str | None = None,
    samples: int = 1,
    temperature: float | None = None,
    seed: int = 0,
    pace: float = 60.0,
    web: bool = False,
    port: int | None = None,
) -> None:
    """Load the models, then play in the terminal or on a page until nothing is left to play.

    The arguments are the options of `aha play`; None means as the recipe says.
    Errors: UserError naming what is wrong with an option, a model or a problem.
    """
    from aha.play.session import Draw, open_session
    from aha.play.terminal import play_in_terminal
    from aha.play.web import serve

    if port is not None and not web:
        raise UserError("--port goes with --web.")
    if web and problem is not None:
        raise UserError("--problem plays in the terminal; on the page of --web it is typed.")
    # The options are checked before the models load, which takes time.
    draw = Draw(samples, temperature or 0.0, seed, pace=pace)
    if web and importlib.util.find_spec("gradio") is None:
        raise UserError("--web needs gradio, which is not installed; pip install 'aha-zero[web]'")
    session = open_session(model, against, recipe, overrides, max_tokens)
    if temperature is None:
        draw = replace(draw, temperature=session.recipe.evaluation.temperature)
    if web:
        serve(session, draw, DEFAULT_PORT if port is None else port)
    else:
        play_in_terminal(session, draw, problem)
