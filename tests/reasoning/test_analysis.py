from __future__ import annotations

import time

import pytest

from aha.reasoning.analysis import analyse, step_metrics
from aha.reasoning.reflection import reflection_count

FOUND = "3 + 4 = 7 , not 15 . Wait, 3 * 5 = 15 , yes . </think> <answer> 3 * 5 </answer>"
LOST = "3 + 4 = 8 , not 15 . </think> <answer> 3 + 4 </answer>"
PLAIN = "</think> <answer> 3 * 5 </answer>"


def test_an_analysis_says_what_a_completion_shows() -> None:
    analysis = analyse(FOUND, "countdown", True)
    assert [analysis.shows(b) for b in ("self_check", "backtracking", "subgoals")] == [
        True,
        True,
        False,
    ]
    assert [FOUND[step.start : step.end] for step in analysis.steps] == ["3 + 4 = 7", "3 * 5 = 15"]
    assert all(step.true for step in analysis.steps)
    assert analysis.reflections == reflection_count(FOUND) == 1


@pytest.mark.parametrize(
    ("text", "correct", "corrected"),
    [
        (FOUND, True, True),
        (FOUND, False, False),
        (PLAIN, True, False),
        # A false step written again and truly, without a word about it.
        ("7 * 8 = 54. So 54 + 6 = 60. 7*8 = 56, so 62.", True, True),
        ("7 * 8 = 54. So 54 + 6 = 60. 7*8 = 56, so 62.", False, False),
        ("54 = 7 * 8, 56 = 7 * 8", True, True),
        # False and never written again; true before it was false.
        ("7 * 8 = 54 and 6 * 9 = 54", True, False),
        ("7 * 8 = 56 and 7 * 8 = 54", True, False),
        # The later part of a chain has no arithmetic of its own to be written again.
        ("3 * 4 = 12 + 2 = 15, 5 * 4 = 20 + 2 = 22", True, False),
    ],
)
def test_corrected_is_right_after_a_try_given_up_or_a_step_redone(
    text: str, correct: bool, corrected: bool
) -> None:
    assert analyse(text, "gsm8k", correct).corrected is corrected


def test_metrics_of_a_step_by_hand() -> None:
    metrics = step_metrics(
        [
            analyse(FOUND, "countdown", True),
            analyse(LOST, "countdown", False),
            analyse(PLAIN, "countdown", True),
            analyse(FOUND, "countdown", True),
        ]
    )
    # Steps: 2 true, 1 false, none, 2 true.
    assert metrics == {
        "reasoning/self_check_rate": 0.75,
        "reasoning/backtracking_rate": 0.5,
        "reasoning/subgoals_rate": 0.0,
        "reasoning/backward_chaining_rate": 0.0,
        "reasoning/backtracks": 0.5,
        "reasoning/corrected_rate": 0.5,
        "reasoning/steps": 1.25,
        "reasoning/steps_true": 0.8,
    }


def test_no_steps_have_no_share_of_true_ones() -> None:
    metrics = step_metrics([analyse(PLAIN, "countdown", True)])
    assert metrics["reasoning/steps"] == 0.0
    assert metrics["reasoning/steps_true"] is None


def test_no_completions_have_no_rates() -> None:
    assert set(step_metrics([]).values()) == {None}


def test_a_training_step_is_analysed_in_a_moment() -> None:
    texts = [f"{FOUND[:-40]} {i} - 1 = {i} , not 15 . Wait, " * 8 for i in range(192)]
    analyse(texts[0], "countdown", True)  # compiles
    start = time.process_time()
    for text in texts:
        analyse(text, "countdown", True)
    assert time.process_time() - start < 1
