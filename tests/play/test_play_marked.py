from __future__ import annotations

import time

import pytest
from recited import GOES_ON

from aha.play.scene import Line, MarkedText, mark_text

NUMS = (3, 13, 5)


def marked_text(text: str, finished: bool = True) -> MarkedText:
    """A text on 15 from 3 13 5, marked."""
    return mark_text(text, NUMS, "countdown", finished)


def text_of(checked: MarkedText) -> list[str]:
    return ["".join(piece.text for piece in line.pieces) for line in checked.lines]


def marked(line: Line, mark: str) -> list[str]:
    return [piece.text for piece in line.pieces if piece.mark == mark]


def test_every_try_is_a_line_with_its_sums_judged() -> None:
    checked = marked_text(GOES_ON)
    assert text_of(checked) == [
        "13 * 3 = 39 , 39 + 5 = 44 , not 15 .",
        "Wait, 13 - 3 = 10 , 10 - 5 = 6 , not 15 .",
        "Wait, 5 - 3 = 2 , 13 + 2 = 15 , yes .",
        "</think> <answer> 13 + ( 5 - 3 ) </answer>",
    ]
    assert (checked.true, checked.false, checked.turns) == (5, 1, 2)
    assert marked(checked.lines[1], "false") == ["10 - 5 = 6"]
    assert marked(checked.lines[1], "true") == ["13 - 3 = 10"]
    assert marked(checked.lines[1], "turn") == ["Wait,"]
    assert marked(checked.lines[3], "tag") == ["</think>", "<answer>", "</answer>"]
    assert [line.used for line in checked.lines] == [(True, True, True)] * 3 + [None]


def test_a_number_is_there_when_it_was_given_or_reached_and_once() -> None:
    text = "13 - 3 = 10 , 10 - 7 = 3 . Wait, 3 + 3 = 6 . Wait, 13 - 5 = 8"
    lines = marked_text(text).lines
    notes = [piece.note for line in lines for piece in line.pieces if piece.mark == "true"]
    assert notes == ["", "7 is not there", "3 is used up", ""]
    # Of 3 13 5: the last try has not used the 3.
    assert lines[-1].used == (False, True, True)


def used_and_notes(text: str) -> tuple[tuple[bool, ...] | None, list[str]]:
    """The numbers of 3 13 5 that the last sum's try has used, and the faults of all sums."""
    (line,) = marked_text(text).lines
    return line.used, [piece.note for piece in line.pieces if piece.note]


def test_a_chain_goes_on_from_what_it_reached() -> None:
    assert used_and_notes("13 - 3 = 10") == ((True, True, False), [])
    assert used_and_notes("13 - 3 = 10 - 5 = 5") == ((True, True, True), [])


def test_a_false_sum_goes_on_from_what_it_says() -> None:
    assert used_and_notes("13 - 3 = 9 , 9 + 5 = 14") == ((True, True, True), [])


def test_given_numbers_begin_a_new_try_by_themselves() -> None:
    assert used_and_notes("(13 - 3) + 5 = 15 , 13 - 3 = 10") == ((True, True, False), [])


@pytest.mark.parametrize("equation", ["x + 3 = 5", "1.5 * 2 = 3", "3 = 3"])
def test_what_cannot_be_read_is_left_out(equation: str) -> None:
    assert used_and_notes(equation) == (None, [])


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("13 * 3 = 3", 0),  # 39 may be meant
        ("13 * 3 = 39", 0),
        ("13 * 3 = 39 ,", 0),
        ("13 * 3 = 39 , 3", 1),
        ("13 - 3 = 10 - 5", 0),  # = 5 may follow
        ("13 - 3 = 10\n", 1),
        ("13 - 3 = 10 so", 1),
        ("1,0", 0),
    ],
)
def test_of_an_unfinished_text_only_what_is_beyond_doubt_is_judged(text: str, judged: int) -> None:
    checked = marked_text(text, finished=False)
    assert checked.true + checked.false == judged


def test_no_judgement_is_taken_back_while_a_text_grows() -> None:
    whole = marked_text(GOES_ON)
    expected = [p for line in whole.lines for p in line.pieces if p.mark in ("true", "false")]
    seen = 0
    for end in range(len(GOES_ON) + 1):
        lines = marked_text(GOES_ON[:end], finished=False).lines
        found = [p for line in lines for p in line.pieces if p.mark in ("true", "false")]
        assert found == expected[: len(found)]
        assert len(found) >= seen
        seen = len(found)
    assert seen == len(expected) == 6


def test_no_character_but_blanks_is_lost() -> None:
    text = "So 3 + 4 = 7.\n\n  Wait, that's wrong: 2 * 3 = 5.\tLet me check: <think> & <b> \x1b[0m"
    for found in (marked_text(text), mark_text(text, rules="text")):
        joined = "".join("".join(text_of(found)).split())
        assert joined == "".join(text.split())


def test_other_tasks_have_no_numbers_to_use_up() -> None:
    checked = mark_text("3 + 4 = 7. Wait, 7 + 7 = 15.", rules="text")
    assert (checked.true, checked.false, checked.turns) == (1, 1, 1)
    assert all(line.used is None for line in checked.lines)
    assert all(piece.note == "" for line in checked.lines for piece in line.pieces)


def test_long_hostile_texts_take_no_longer_than_their_length_asks() -> None:
    texts = [
        "1 + 1 = 2 , " * 2_000,
        "Wait, " * 4_000,
        "<think>" * 4_000,
        "(" * 30_000,
        "=" * 30_000,
    ]
    started = time.process_time()
    for text in texts:
        marked_text(text, finished=False)
    assert time.process_time() - started < 5
