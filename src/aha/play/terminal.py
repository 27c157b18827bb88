"""`aha play` in a terminal: problems typed one after another, each played as it is written.

Without a terminal problems come line by line from a pipe, and each game is printed once it is
over. Model text becomes `Text`, never markup, with control characters written out, so it can
neither style nor steer the terminal.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from importlib import resources

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from aha.play.scene import LOOKS, SIGNS, Line, Row, Scene
from aha.play.session import Draw, Session, Tally, frames, who_plays
from aha.types import Problem, UserError
from aha.visible import quoted, visible

_LISTED = 10
_SIDE_BY_SIDE = 90  # columns; on narrower terminals one model stands below the other
_BORDERS = ("blue", "magenta")
_STYLES: Mapping[str, str] = LOOKS["styles"]
HELP = (resources.files("aha.play") / "templates/help.txt").read_text(encoding="utf-8").rstrip()


def play_in_terminal(session: Session, draw: Draw, problem: str | None) -> None:
    """Play one problem, or what a person types, or what a pipe brings.

    Errors: UserError when the problem, or a line from the pipe, could not be played.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the encoding lacks becomes ? instead of ending the game.
        sys.stdout.reconfigure(errors="replace")
    console = Console(markup=False, emoji=False, highlight=False)
    terminal = Terminal(session, console, draw)
    if problem is not None:
        terminal.play(session.typed(problem))
    elif sys.stdin.isatty():
        terminal.greet()
        terminal.follow(_typed_lines(console))
    else:
        # Bytes that are no text cost one line, not the game.
        lines = (line.decode("utf-8", errors="replace") for line in sys.stdin.buffer)
        if faults := terminal.follow(lines):
            counted = "1 line" if faults == 1 else f"{faults} lines"
            raise UserError(f"{counted} of the input could not be played; see above.")


def _typed_lines(console: Console) -> Iterator[str]:
    """The lines that a person types, until Ctrl-D, or Ctrl-C at the prompt."""
    while True:
        try:
            yield console.input(Text("problem> ", style="bold"))
        except (EOFError, KeyboardInterrupt):
            console.print()
            return


class Terminal:
    """Plays on a console: one game, or what lines say."""

    def __init__(self, session: Session, console: Console, draw: Draw) -> None:
        self._session = session
        self._console = console
        self._draw = draw
        self._signs = str.maketrans(LOOKS["ascii"]) if console.options.ascii_only else {}
        self._tally = Tally()
        self._last: Problem | None = None

    def greet(self) -> None:
        """Say who plays, and how to begin."""
        who = who_plays([player.name for player in self._session.players])
        self._say(f"{who}. Enter plays a random held-out problem, :help says what else there is.")
        self._say(
            f"{SIGNS['true']} true  {SIGNS['false']} false  {SIGNS['missing']} a number that is "
            "not there  [3,13,_] the numbers that the try has used",
            style="dim",
        )

    def follow(self, lines: Iterable[str]) -> int:
        """Do as each line says until one says `:q`; the number of lines that could not be done."""
        faults = 0
        for number, line in enumerate(lines, start=1):
            if line.strip() in (":q", ":quit"):
                break
            try:
                self._obey(line.strip())
            except UserError as error:
                faults += 1
                if self._console.is_terminal:
                    self._say(str(error), style="red")
                else:
                    print(visible(f"line {number}: {error}"), file=sys.stderr)
        return faults

    def play(self, problem: Problem) -> None:
        """Play one game, to its end or until it is interrupted."""
        self._last = problem
        console = self._console
        scenes = self._session.play(problem, self._draw)
        self._draw = replace(self._draw, seed=self._draw.seed + 1)
        try:
            if console.is_terminal:
                with (
                    closing(frames(self._session, scenes, self._draw.pace)) as shown,
                    Live(console=console, auto_refresh=False, transient=True) as live,
                ):
                    for scene in shown:
                        live.update(self.panels(scene, fit=True), refresh=True)
            else:
                scene = deque(scenes, maxlen=1).pop()
        except KeyboardInterrupt:
            self._say("stopped")
            return
        self._tally = self._tally.with_game(scene)
        if console.is_terminal:
            console.print(self.panels(scene, fit=False))
        else:
            console.print(self._plain(scene), soft_wrap=True)
        for sentence in (*scene.summary(), str(self._tally)):
            if sentence:
                self._say(sentence)

    def _obey(self, line: str) -> None:
        """Do as a line says. Errors: UserError when it cannot be done."""
        name, _, value = line.partition(" ")
        value = value.strip()
        if not line:
            self.play(self._session.random_problem(self._draw.seed))
        elif not line.startswith(":"):
            self.play(self._session.typed(line))
        elif name in (":help", ":h", ":?"):
            self._say(HELP)
        elif name in (":again", ":a"):
            if self._last is None:
                raise UserError(":again needs a game before it.")
            self.play(self._last)
        elif name == ":list":
            for number, problem in enumerate(self._session.held_out[:_LISTED], start=1):
                self._say(f"{number:3}  {self._session.task.written(problem.columns)}")
        elif name == ":p":
            held_out = self._session.held_out
            self.play(held_out[_whole_number(":p", value, len(held_out)) - 1])
        elif name == ":t":
            self._draw = replace(self._draw, temperature=_decimal(":t", value))
        elif name == ":n":
            self._draw = replace(self._draw, samples=_whole_number(":n", value, None))
        elif name == ":wish":
            if self._session.wishes is None:
                raise UserError(":wish needs a model that was trained with length.wish.")
            self._draw = replace(self._draw, wish=_whole_number(":wish", value, None))
        elif name == ":pace":
            self._draw = replace(self._draw, pace=_decimal(":pace", value))
        else:
            raise UserError(f"{quoted(name)} is not a command; :help lists them.")

    def _say(self, text: str, style: str = "") -> None:
        wraps = self._console.is_terminal
        self._console.print(self._text(text, style), soft_wrap=not wraps)

    def panels(self, scene: Scene, fit: bool) -> RenderableType:
        """The scene in boxes; with `fit`, of a text too long for the screen only its end."""
        console = self._console
        beside = console.width >= _SIDE_BY_SIDE and len(scene.lanes) > 1
        rows = max(len(lane.rows) for lane in scene.lanes)
        stacked = 1 if beside else len(scene.lanes)
        # A heading of two lines, an edge above and below each box, three lines of each row besides.
        left = (console.height - 3 - 2 * stacked) // (rows * stacked) - 3
        width = console.width // (len(scene.lanes) if beside else 1) - 4
        boxes = []
        for lane, border in zip(scene.lanes, _BORDERS, strict=False):
            texts = []
            for row in lane.rows:
                text = Text("\n").join(self._line(line, scene.pool) for line in row.marked.lines)
                if fit:
                    text = Text("\n").join(list(text.wrap(console, width))[-max(1, left) :])
                texts.append(Text("\n").join([text, self._status(row)]))
            boxes.append(
                Panel(
                    Text("\n\n").join(texts),
                    title=self._text(lane.name, "bold"),
                    subtitle=self._text(lane.speed, "dim") if lane.speed else None,
                    border_style=border,
                )
            )
        if not beside:
            return Group(self._heading(scene), *boxes)
        table = Table.grid(*(Column(ratio=1) for _ in boxes), expand=True)
        table.add_row(*boxes)
        return Group(self._heading(scene), table)

    def _plain(self, scene: Scene) -> Group:
        """The scene as lines, one model after the other."""
        parts = [self._heading(scene)]
        for lane in scene.lanes:
            parts.append(self._text(f"\n{lane.name}, {lane.speed}"))
            for row in lane.rows:
                lines = [self._line(line, scene.pool) for line in row.marked.lines]
                parts += [Text("  ") + line for line in (*lines, *self._status(row).split())]
        return Group(*parts)

    def _heading(self, scene: Scene) -> Text:
        notes = (self._text(f"\n{note}", "yellow") for note in scene.notes)
        return Text().join([self._text(scene.heading, "bold"), *notes])

    def _line(self, line: Line, pool: tuple[int, ...]) -> Text:
        parts = []
        for piece in line.pieces:
            sign = f" {SIGNS[piece.mark]}" if piece.mark in ("true", "false") else ""
            parts.append(self._text(piece.text + sign, _STYLES[piece.mark]))
            if piece.note:
                parts.append(self._text(f" {SIGNS['missing']} {piece.note}", "bold red"))
        if line.used is not None:
            shown = (str(n) if used else "_" for n, used in zip(pool, line.used, strict=True))
            parts.append(self._text(f" [{','.join(shown)}]", "dim"))
        return Text().join(parts)

    def _status(self, row: Row) -> Text:
        """The row's outcome, and below it the details."""
        status = self._text(f"{SIGNS[row.kind]} {row.outcome}", _STYLES[row.kind])
        if row.details:
            status = Text("\n  ").join([status, self._text(row.details, "dim")])
        return status

    def _text(self, text: str, style: str = "") -> Text:
        """Text to show: all of it goes through here, so that none steers the terminal."""
        return Text(visible(text).translate(self._signs), style=style)


def _whole_number(command: str, value: str, most: int | None) -> int:
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
