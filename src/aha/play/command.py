"""What `aha play` does with its options: load the models, then play in a terminal or on a page."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from aha.play.session import Draw, Request, Session, open_session
from aha.play.terminal import Terminal, pace_of, typed_lines
from aha.types import UserError

# Faster than one reads aloud, slow enough to see a try begin and fail.
PACE = 60.0
DEFAULT_PORT = 8766


@dataclass(frozen=True)
class Options:
    """How to play; None means as the recipe says."""

    problem: str | None = None
    samples: int = 1
    temperature: float | None = None
    seed: int | None = None
    pace: float = PACE
    web: bool = False
    port: int | None = None


def run(request: Request, options: Options) -> None:
    """Play until there is nothing left to play.

    Errors: UserError naming what is wrong with an option, a model or a problem.
    """
    if options.port is not None and not options.web:
        raise UserError("--port goes with --web.")
    if options.web and options.problem is not None:
        raise UserError("--problem plays in the terminal; on the page of --web it is typed.")
    pace = pace_of(options.pace)
    draw = Draw(options.samples, options.temperature or 0.0, options.seed or 0)
    if options.web:
        from aha.play.web import require_gradio

        require_gradio()
    session = open_session(request)
    if options.temperature is None:
        draw = Draw(draw.samples, session.recipe.evaluation.temperature, draw.seed)
    if options.web:
        from aha.play.web import serve

        port = DEFAULT_PORT if options.port is None else options.port
        serve(session, draw, pace, port, lambda text: print(text, flush=True))
    else:
        _in_terminal(session, draw, pace, options.problem)


def _in_terminal(session: Session, draw: Draw, pace: float, problem: str | None) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    _tolerate(sys.stdout)
    terminal = Terminal(session, console, draw, pace)
    if problem is not None:
        terminal.play(session.typed(problem))
    elif sys.stdin.isatty():
        terminal.greet()
        terminal.follow(typed_lines(console))
    elif faults := terminal.follow(_piped_lines()):
        counted = "1 line" if faults == 1 else f"{faults} lines"
        raise UserError(f"{counted} of the input could not be played; see above.")


def _piped_lines() -> Iterator[str]:
    """Standard input line by line; bytes that are no text are seen as such, and cost one line."""
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", errors="replace")


def _tolerate(stream: object) -> None:
    """A character that the terminal's encoding lacks is shown as ? instead of ending the game."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
