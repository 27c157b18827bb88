from __future__ import annotations

import pytest
from recited import MakeSession

from aha.play.session import MAX_CHARACTERS, Session
from aha.recipe import load_recipe
from aha.sections import TaskSection
from aha.tasks import TASKS
from aha.tasks.countdown import has_solution
from aha.types import UserError

COUNTDOWN = load_recipe("countdown-tiny").task
GSM8K = TaskSection(name="gsm8k")


@pytest.fixture
def countdown(make_session: MakeSession) -> Session:
    return make_session(one=["no"])


@pytest.mark.parametrize(
    "text",
    [
        "15 from 3 13 5",
        "  Make 15 from 3 13 5 . ",
        "MAKE 15 WITH 3, 13 and 5!",
        "3 13 5 = 15",
        "3,13,5 -> 15",
        "[3, 13, 5] make 15",
        "15 = 3 13 5",
        "{'target': 15, 'nums': [3, 13, 5]}",
        "using 3 13 5 reach 15",
    ],
)
def test_a_countdown_problem_is_read_as_people_write_it(text: str, countdown: Session) -> None:
    problem = countdown.typed(text)
    assert dict(problem.columns) == {"target": 15, "nums": [3, 13, 5]}
    assert countdown.task.written(problem.columns) == "15 from 3 13 5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" \t ", "empty"),
        ("hello", "'hello' is no Countdown problem; .* such as 15 from 3 13 5"),
        ("15", "no Countdown problem"),
        ("from 3 13 5", "no Countdown problem"),
        ("-15 from 3 5", "no Countdown problem"),
        ("1.5 from 3 5", "no Countdown problem"),
        ("1,000 from 3 5", "no Countdown problem"),
        ("15 from 3 x", "no Countdown problem"),
        ("15 from " + "1" * 30, "no Countdown problem"),
        ("15 from 3", "has one number to make 15 from; allowed are 2 to 8"),
        ("15 from 1 2 3 4 5 6 7 8 9", "has 9 numbers"),
        ("1 " * MAX_CHARACTERS, "3,999 characters; at most 2,000"),
        ("\x1b[31m from 3 4", r"\\x1b"),
    ],
)
def test_what_is_no_countdown_problem_is_one_sentence(
    text: str, words: str, countdown: Session
) -> None:
    with pytest.raises(UserError, match=words):
        countdown.typed(text)


def test_a_question_may_bring_its_answer(make_session: MakeSession) -> None:
    session = make_session(["task.name=gsm8k", "prompt.style=r1"], one=["no"])
    asked = session.typed(" What is 6 * 7?\n#### 42 ")
    assert dict(asked.columns) == {"problem": "What is 6 * 7?", "answer": "42"}
    assert session.task.notes(asked, GSM8K) == ()
    bare = session.typed("What is 6 * 7?")
    assert dict(bare.columns) == {"problem": "What is 6 * 7?"}
    assert "QUESTION #### ANSWER" in session.task.notes(bare, GSM8K)[0]
    assert bare.key == asked.key
    with pytest.raises(UserError, match="no question before ####"):
        session.typed("#### 42")


@pytest.mark.parametrize(
    ("nums", "target", "expected"),
    [
        ([3, 13, 5], 15, True),  # 13 + (5 - 3)
        ([1, 1, 1], 100, False),
        ([8, 3, 8, 3], 24, True),  # 8 / (3 - 8 / 3)
        ([1, 2, 3, 4, 5], 15, None),
        ([0, 0], 0, True),
    ],
)
def test_whether_there_is_a_solution(nums: list[int], target: int, expected: bool | None) -> None:
    assert has_solution(nums, target) is expected


def test_notes_say_what_is_odd_about_a_problem() -> None:
    def noted(text: str) -> tuple[str, ...]:
        return TASKS["countdown"].notes(TASKS["countdown"].typed(text), COUNTDOWN)

    assert noted("15 from 3 13 5") == ()  # on the held-out side of the split
    assert noted("38 from 16 5 17") == (
        "this problem may have been trained on; held-out ones never were",
    )
    assert noted("100 from 1 1 1") == ("this problem has no solution",)
    (unlike,) = noted("10 from 1 2 3 4")
    assert "3 numbers from 1 to 20 and targets from 1 to 100" in unlike


def test_a_set_of_the_user_s_own_says_nothing_of_ranges_or_splits() -> None:
    section = COUNTDOWN.model_copy(update={"source": "rows.jsonl"})
    task = TASKS["countdown"]
    assert task.notes(task.typed("38 from 16 5 17"), section) == ()
