from __future__ import annotations

import time

import pytest
from markupsafe import Markup

from aha.answers.equations import WrittenStep
from aha.reasoning.analysis import Analysis
from aha.reasoning.behaviours import Passage
from aha.report.moments import marked, preview
from aha.visible import visible


def analysis(*passages: Passage, steps: tuple[WrittenStep, ...] = ()) -> Analysis:
    return Analysis(passages=passages, steps=steps, corrected=False, reflections=0)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\u202eb\u2069", "a⟨U+202E⟩b⟨U+2069⟩"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\u200e\u200f\u061c\ufeff\x00\x9b", "⟨U+200E⟩⟨U+200F⟩⟨U+061C⟩⟨U+FEFF⟩⟨U+0000⟩⟨U+009B⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("line\n\ttab é 日本 👩\u200d🔬", "line\n\ttab é 日本 👩\u200d🔬"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_marks_stand_where_the_passages_are_and_text_is_escaped() -> None:
    text = "a <b> Wait, c & 1 + 1 = 3"
    shown = marked(
        text,
        analysis(Passage("backtracking", 6, 10), steps=(WrittenStep(16, 25, False),)),
    )
    assert shown == Markup(
        'a &lt;b&gt; <span class="turn"></span>'
        '<mark class="backtracking" title="backtracking">Wait</mark>, c &amp; '
        '<mark class="false" title="false equation">1 + 1 = 3</mark>'
    )


def test_overlapping_passages_are_marked_once() -> None:
    shown = marked("abcdef", analysis(Passage("self_check", 0, 4), Passage("subgoals", 2, 6)))
    assert shown == Markup('<mark class="self-check" title="self check">abcd</mark>ef')


def test_a_long_text_is_folded_and_cut_in_its_middle() -> None:
    text = "x" * 4_000 + "y" * 994_000 + "z" * 2_000
    assert preview(text) == "x" * 110 + "…"
    shown = marked(text)
    assert "994,000 characters left out" in shown
    assert "y" not in shown
    assert shown.endswith("z" * 2_000)


def test_a_short_text_is_not_folded() -> None:
    assert preview("short") == preview("x" * 900) == ""
    assert preview("x" * 901)


def test_a_megabyte_of_marks_takes_no_time() -> None:
    text = "wait " * 200_000
    found = analysis(*(Passage("backtracking", i, i + 4) for i in range(0, len(text), 5)))
    started = time.perf_counter()
    shown = marked(text, found)
    assert len(shown) < 200_000
    # Quadratic work would take minutes.
    assert time.perf_counter() - started < 10
