from __future__ import annotations

import io
import re

import pytest
from recited import GIVES_UP, GOES_ON, MakeSession
from rich.console import Console

from aha.play.session import Draw, Session
from aha.play.terminal import HELP, Terminal

HOSTILE = (
    "\x1b[31mred\x1b[2J [bold red]styled[/] [link=http://evil.example]x[/link] :boom: "
    "\u202egnp.exe [/nothing] 1 + 1 = 3 \r\x07 </think> <answer> [blink]15 </answer>"
)
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def console(width: int = 120, height: int = 40, terminal: bool = True) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=height,
        color_system="truecolor" if terminal else None, markup=False, emoji=False, highlight=False,
    )  # fmt: skip


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return ANSI.sub("", on.file.getvalue())


def played(session: Session, lines: list[str], on: Console | None = None, samples: int = 1) -> str:
    on = on or console(terminal=False)
    Terminal(session, on, Draw(samples)).follow(lines)
    return shown(on)


@pytest.fixture
def pair(make_session: MakeSession) -> Session:
    return make_session(base=[GIVES_UP], trained=[GOES_ON])


def test_a_game_in_plain_lines(pair: Session) -> None:
    text = re.sub(r"[\d,]+ tokens/s", "N tokens/s", played(pair, ["15 from 3 13 5"]))
    assert text == (
        "Make 15 from 3 13 5\n\n"
        "base, N tokens/s\n"
        "  13 * 3 = 39 ✓ , 39 + 5 = 44 ✓ , not 15 . [3,13,5]\n"
        "  </think> <answer> ( 13 * 3 ) + 5 </answer>\n"
        "  ✗ wrong at the first try, 25 tokens: it is 44, not 15\n"
        "    2 of 2 sums true · strict ✗ · lenient ✗\n\n"
        "trained, N tokens/s\n"
        "  13 * 3 = 39 ✓ , 39 + 5 = 44 ✓ , not 15 . [3,13,5]\n"
        "  Wait, 13 - 3 = 10 ✓ , 10 - 5 = 6 ✗ , not 15 . [3,13,5]\n"
        "  Wait, 5 - 3 = 2 ✓ , 13 + 2 = 15 ✓ , yes . [3,13,5]\n"
        "  </think> <answer> 13 + ( 5 - 3 ) </answer>\n"
        "  ✓ right after 2 given-up tries, 56 tokens\n"
        "    5 of 6 sums true · strict ✓ · lenient ✓\n"
        "Both drew with the same random numbers and wrote the same 15 tokens; then they part.\n"
    )


@pytest.mark.parametrize("width", [120, 60])
def test_in_a_terminal_both_are_seen_with_steps_and_verdicts(pair: Session, width: int) -> None:
    text = played(pair, ["15 from 3 13 5"], console(width))
    last = text[text.rindex("Make 15 from 3 13 5") :]
    beside = [line for line in last.splitlines() if "base" in line and "trained" in line]
    assert bool(beside) == (width == 120)
    for part in ("10 - 5 = 6 ✗", "it is 44, not 15", "right after 2 given-up tries", "tokens/s"):
        assert part in " ".join(last.split())
    assert all(len(line) <= width for line in text.splitlines())


@pytest.mark.parametrize(("width", "samples"), [(120, 1), (120, 2), (60, 1)])
def test_while_it_is_written_the_end_of_a_long_text_is_on_screen(
    width: int, samples: int, make_session: MakeSession
) -> None:
    long = "Wait, 1 + 2 = 3 , not 15 . " * 60 + "the end"
    session = make_session(base=[long], trained=[long], limit=2_000)
    on = console(width, 30)
    *_, scene = session.play(session.typed("15 from 3 13 5"), Draw(samples))
    terminal = Terminal(session, on, Draw(samples))
    lines = on.render_lines(terminal.panels(scene, fit=True))
    assert len(lines) <= 30
    text = "".join(segment.text for line in lines for segment in line)
    assert text.count("the end") == 2 * samples
    whole = on.render_lines(terminal.panels(scene, fit=False))
    assert len(whole) > 60


def test_no_text_of_a_model_styles_or_steers_the_terminal(make_session: MakeSession) -> None:
    session = make_session(**{"[red]name[/]\x1b[1m": [HOSTILE]})
    for on in (console(), console(60), console(terminal=False)):
        text = played(session, ["15 from 3 13 5"], on)
        raw = on.file.getvalue()  # type: ignore[attr-defined]
        joined = " ".join(text.replace("│", " ").split())
        assert "⟨U+001B⟩[31mred⟨U+001B⟩[2J" in joined
        assert "[bold red]styled[/]" in joined
        assert "[blink]15" in joined
        assert "[red]name[/]⟨U+001B⟩" in joined
        assert "⟨U+202E⟩gnp.exe" in joined
        assert not set(raw) & {"\u202e", "\x07"}
        assert "\x1b[31mred" not in raw
        assert "\x1b]8" not in raw
        assert "1 + 1 = 3 ✗" in joined


def test_commands_change_what_follows(pair: Session) -> None:
    lines = [":n 2", ":t 0.5", ":pace 5", "15 from 3 13 5", ":again", ":q", "15 from 3 13 5"]
    text = played(pair, lines)
    assert text.count("Make 15 from 3 13 5") == 2
    assert "base: 0 of 2 right, 25 tokens and 0.0 given-up tries on average" in text
    assert "so far: base 0 of 4, trained 4 of 4" in text


def test_enter_plays_a_held_out_problem_and_p_one_by_number(pair: Session) -> None:
    listed = played(pair, [":list"]).splitlines()
    assert len(listed) == 10
    numbered = listed[2].split(maxsplit=1)
    assert numbered[0] == "3"
    assert f"Make {numbered[1]}\n" in played(pair, [":p 3"])
    random = played(pair, [""]).splitlines()[0]
    assert random == played(pair, ["  "]).splitlines()[0]
    assert random.removeprefix("Make ").split()[1] == "from"


def test_help_names_every_command(pair: Session) -> None:
    assert played(pair, [":help"]).strip() == HELP.strip()
    for command in (":again", ":list", ":p", ":t", ":n", ":pace", ":q"):
        assert f"\n{command}" in HELP


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hello", "no Countdown problem"),
        (":x", "':x' is not a command; :help lists them"),
        (":t hot", ":t takes a number, not 'hot'"),
        (":t 99", "temperature is 99"),
        (":t nan", "temperature is nan"),
        (":n 0", ":n takes a whole number, 1 or more, not '0'"),
        (":n 65", "samples is 65; allowed are 1 to 64"),
        (":n \u0663", ":n takes a whole number"),
        (":p 501", "1 to 500, not '501'"),
        (":pace -1", "the pace is -1"),
        (":again", ":again needs a game before it"),
        ("\x1b[31mx", r"'\x1b[31mx'"),
    ],
)
def test_a_line_that_means_nothing_is_one_sentence_and_the_game_goes_on(
    line: str, words: str, pair: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    on = console(terminal=False)
    faults = Terminal(pair, on, Draw()).follow([line, "15 from 3 13 5"])
    assert faults == 1
    error = capsys.readouterr().err
    assert error.startswith("line 1: ")
    assert words in error
    assert len(error.splitlines()) == 1
    assert "Make 15 from 3 13 5" in shown(on)
    # At a terminal it stands where the person looks.
    assert words in " ".join(played(pair, [line], console()).split())


def test_an_encoding_without_the_signs_gets_others(pair: Session) -> None:
    on = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=100, markup=False)
    Terminal(pair, on, Draw()).follow(["15 from 3 13 5"])
    on.file.flush()
    written = on.file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "10 - 5 = 6 (NO)" in written
    assert "(ok) right after 2 given-up tries" in written


def test_ctrl_c_stops_the_game_and_not_the_session(
    pair: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, games = Session.play, iter([True, False])

    def interrupted(self: Session, problem: object, draw: Draw) -> object:
        scenes = play(self, problem, draw)  # type: ignore[arg-type]
        if next(games):
            next(scenes)
            raise KeyboardInterrupt
        yield from scenes

    monkeypatch.setattr(Session, "play", interrupted)
    text = played(pair, ["15 from 3 13 5", "15 from 3 13 5"])
    assert text.startswith("stopped\nMake 15 from 3 13 5")


def test_who_plays_is_said_first(pair: Session) -> None:
    on = console(terminal=False)
    Terminal(pair, on, Draw()).greet()
    assert shown(on).startswith("base beside trained. Enter plays a random held-out problem")
