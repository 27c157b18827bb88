from __future__ import annotations

from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest
from recited import GIVES_UP, GOES_ON, MakeSession

from aha.play.scene import Scene
from aha.play.session import Draw, Session, Tally
from aha.play.web import GAMES_PER_MINUTE, Limiter, Page, page_html

HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=alert(2)> </div></section> \" onclick='x' "
    "${alert(3)} {{constructor}} {{#with this}}x{{/with}} `x` &lt; \x1b[31m \u202egnp.exe "
    "1 + 1 = 3 </think> <answer> <b>15</b> </answer>"
)


class Seen(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(html: str) -> Seen:
    parser = Seen()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def pair(make_session: MakeSession) -> Session:
    return make_session(base=[GIVES_UP], trained=[GOES_ON])


def last_scene(session: Session, problem: str = "15 from 3 13 5") -> Scene:
    *_, scene = session.play(session.typed(problem), Draw())
    return scene


def test_both_sides_their_steps_and_verdicts_are_there(make_session: MakeSession) -> None:
    scene = last_scene(make_session(base=[GIVES_UP], trained=[GOES_ON]))
    text = seen(page_html("game", scene, Tally().with_game(scene).with_game(scene))).text
    for part in (
        "Make 15 from 3135", "base", "trained", "10 - 5 = 6✗", "13 + 2 = 15✓",
        "wrong at the first try, 25 tokens: it is 44, not 15",
        "right after 2 given-up tries, 56 tokens", "5 of 6 sums true · strict ✓ · lenient ✓",
        "wrote the same 15 tokens", "so far: base 0 of 2, trained 2 of 2",
    ):  # fmt: skip
        assert part in text
    html = page_html("game", scene, Tally())
    assert (
        '<span class="m-false">10 - 5 = 6<span class="sign" role="img" aria-label="false">' in html
    )
    assert 'aria-label="this try uses every number"' in html


def test_of_an_unfinished_game_there_is_no_summary(make_session: MakeSession) -> None:
    session = make_session(base=[GIVES_UP], trained=[GOES_ON])
    scenes = session.play(session.typed("15 from 3 13 5"), Draw())
    first = next(scenes)
    scenes.close()
    html = page_html("game", first, Tally())
    assert "aha-summary" not in html
    assert "… 1 token" in seen(html).text


@pytest.mark.parametrize("where", ["text", "name", "message"])
def test_what_others_wrote_is_only_ever_text(where: str, make_session: MakeSession) -> None:
    plain = last_scene(make_session(one=["no"]))
    if where == "text":
        html, usual = page_html("game", last_scene(make_session(one=[HOSTILE])), Tally()), plain
    elif where == "name":
        html, usual = (
            page_html("game", last_scene(make_session(**{HOSTILE: ["no"]})), Tally()),
            plain,
        )
        html += page_html("heading", [HOSTILE])
    else:
        html, usual = page_html("refusal", HOSTILE), plain
    parsed = seen(html)
    assert set(parsed.tags) <= {"div", "span", "p", "section", "header", "h1", "h2", "strong"}
    known = seen(page_html("game", usual, Tally())).attributes
    assert parsed.attributes <= known | {"class", "role", "aria-label", "title"}
    assert "<script>alert(1)</script>" in parsed.text
    assert "⟨U+001B⟩[31m ⟨U+202E⟩gnp.exe" in parsed.text
    assert not set("{}$`") & set(html)


def test_a_hostile_question_is_text_too(make_session: MakeSession) -> None:
    session = make_session(["task.name=gsm8k", "prompt.style=r1"], one=["no"])
    parsed = seen(page_html("game", last_scene(session, f"{HOSTILE} #### <i>1</i>"), Tally()))
    assert {"script", "img", "b", "i"}.isdisjoint(parsed.tags)
    assert "${alert(3)} {{constructor}}" in parsed.text


def test_the_style_sheet_loads_nothing() -> None:
    css = (resources.files("aha.play") / "templates/page.css").read_text(encoding="utf-8")
    assert "url(" not in css
    assert "@import" not in css
    assert css.count("{") == css.count("}")


def test_too_many_games_are_refused_with_a_reason(pair: Session) -> None:
    game = Page(pair, Draw(), Limiter(GAMES_PER_MINUTE))
    for _ in range(GAMES_PER_MINUTE):
        *_, (html, _) = game.play("15 from 3 13 5", 1, 1, 240, 0, 0, Tally())
        assert "aha-summary" in html
    ((html, _),) = game.play("15 from 3 13 5", 1, 1, 240, 0, 0, Tally())
    assert f"at most {GAMES_PER_MINUTE} games a minute" in html


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("", 1, 1, 240, 0), "the problem is empty"),
        ((None, 1, 1, 240, 0), "the problem is empty"),
        (("1 " * 3_000, 1, 1, 240, 0), "at most 2,000 are read"),
        (("15 from 3 13 5", 9, 1, 240, 0), "samples is 9; allowed are 1 to 8"),
        (("15 from 3 13 5", None, 1, 240, 0), "samples is None"),
        (("15 from 3 13 5", "1", 1, 240, 0), "samples is &#x27;1&#x27;"),
        (("15 from 3 13 5", 1, float("nan"), 240, 0), "temperature is nan"),
        (("15 from 3 13 5", 1, 0.001, 240, 0), "temperature is 0.001"),
        (("15 from 3 13 5", 1, 1, 241, 0), "tokens is 241; allowed are 1 to 240"),
        (("15 from 3 13 5", 1, 1, 240, -1), "the pace is -1"),
    ],
)
def test_what_a_browser_sends_is_checked(
    values: tuple[Any, ...], words: str, pair: Session
) -> None:
    ((html, tally),) = Page(pair, Draw(), Limiter(1)).play(*values, 0, Tally())
    assert words in html
    assert "aha-refusal" in html
    assert tally == Tally()
