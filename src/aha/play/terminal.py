"""`aha play` in a terminal: problems typed one after another, each played as it is written.

Without a terminal problems come line by line from a pipe, and each game is printed once it is
over.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from rich.console import Console
from rich.live import Live
from rich.text import Text

from aha.play.frames import frames
from aha.play.problems import written
from aha.play.scene import Scene
from aha.play.session import Draw, Session
from aha.play.view import legend, panels, plain, signs_for, summary
from aha.play.words import Tally, players
from aha.types import Problem, UserError
from aha.visible import quoted, visible

_LISTED = 10
HELP = """\
a problem   play it: 15 from 3 13 5; in other tasks the question, with #### ANSWER if you know it
Enter       play a random held-out problem
:again      the same problem with other random numbers
:list       some held-out problems, each with its number
:p 7        play the held-out problem of that number
:t 0.7      temperature; 0 is greedy
:n 4        samples of each model
:pace 60    tokens a second to show at most; 0 is as fast as they are written
:q          end"""


class Terminal:
    """Plays on a console: one game, or whatever lines say."""

    def __init__(self, session: Session, console: Console, draw: Draw, pace: float) -> None:
        self._session = session
        self._console = console
        self._draw = draw
        self._pace = pace
        self._signs = signs_for(console)
        self._tally = Tally()
        self._last: Problem | None = None

    def greet(self) -> None:
        """Who plays, and how to begin."""
        who = players([side.name for side in self._session.sides])
        self._say(f"{who}. Enter plays a random held-out problem, :help says what else there is.")
        self._say(legend(self._signs), style="dim")

    def follow(self, lines: Iterable[str]) -> int:
        """Do what each line says until one says `:q`; how many said nothing that can be done."""
        faults = 0
        for number, line in enumerate(lines, start=1):
            if line.strip() in (":q", ":quit"):
                break
            try:
                self._obey(line.strip())
            except UserError as error:
                faults += 1
                self._complain(number, error)
        return faults

    def play(self, problem: Problem) -> None:
        """One game, to its end or until it is interrupted."""
        self._last = problem
        scenes = self._session.play(problem, self._draw)
        self._draw = replace(self._draw, seed=self._draw.seed + 1)
        try:
            scene = self._shown(scenes)
        except KeyboardInterrupt:
            self._say("stopped")
            return
        self._tally = self._tally.with_game(scene)
        if self._console.is_terminal:
            self._console.print(panels(scene, self._console, self._signs, fit=False))
        else:
            self._console.print(plain(scene, self._signs), soft_wrap=True)
        for sentence in (*summary(scene), str(self._tally)):
            if sentence:
                self._say(sentence)

    def _shown(self, scenes: Generator[Scene, None, None]) -> Scene:
        """Show the game as it goes, where there is a terminal; its last scene."""
        if not self._console.is_terminal:
            return deque(scenes, maxlen=1).pop()
        with (
            closing(frames(self._session, scenes, self._pace)) as shown,
            Live(console=self._console, auto_refresh=False, transient=True) as live,
        ):
            for scene in shown:
                view = panels(scene, self._console, self._signs, fit=True)
                live.update(view, refresh=True)
        return scene

    def _obey(self, line: str) -> None:
        if not line:
            self.play(self._session.random_problem(self._draw.seed))
        elif line.startswith(":"):
            name, _, value = line.partition(" ")
            self._command(name, value.strip())
        else:
            self.play(self._session.typed(line))

    def _command(self, name: str, value: str) -> None:
        if name in (":help", ":h", ":?"):
            self._say(HELP)
        elif name in (":again", ":a"):
            if self._last is None:
                raise UserError(":again needs a game before it.")
            self.play(self._last)
        elif name == ":list":
            for number, problem in enumerate(self._session.held_out[:_LISTED], start=1):
                self._say(f"{number:3}  {written(problem)}")
        elif name == ":p":
            self.play(self._session.held_out[_number(":p", value, len(self._session.held_out)) - 1])
        elif name == ":t":
            self._draw = replace(self._draw, temperature=_decimal(":t", value))
        elif name == ":n":
            self._draw = replace(self._draw, samples=_number(":n", value, None))
        elif name == ":pace":
            self._pace = pace_of(_decimal(":pace", value))
        else:
            raise UserError(f"{quoted(name)} is no command; :help lists them.")

    def _complain(self, line: int, error: UserError) -> None:
        if self._console.is_terminal:
            self._say(str(error), style="red")
        else:
            print(visible(f"line {line}: {error}"), file=sys.stderr)

    def _say(self, text: str, style: str = "") -> None:
        wraps = self._console.is_terminal
        self._console.print(Text(visible(text), style=style), soft_wrap=not wraps)


def typed_lines(console: Console) -> Iterator[str]:
    """What a person types, until Ctrl-D, or Ctrl-C at the prompt."""
    while True:
        try:
            yield console.input(Text("problem> ", style="bold"))
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


def pace_of(value: float) -> float:
    """Errors: UserError for what is no number of tokens a second."""
    if not 0 <= value <= 1_000_000:
        raise UserError(f"the pace is {value:g}; it must be 0 (no limit) to 1,000,000 tokens/s.")
    return value


def _number(command: str, value: str, most: int | None) -> int:
    if value.isascii() and value.isdigit() and len(value) <= 9 and int(value) >= 1:
        number = int(value)
        if most is None or number <= most:
            return number
    allowed = "1 or more" if most is None else f"1 to {most}"
    raise UserError(f"{command} takes a whole number, {allowed}, not {quoted(value)}.")


def _decimal(command: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{command} takes a number, not {quoted(value)}.") from None
