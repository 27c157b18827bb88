from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aha.reasoning.reflection import (
    EXTENDED_PHRASES,
    PHRASES,
    TASK_PHRASES,
    count_phrases,
    fold,
    reflection_count,
)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("Wait, that is wrong", {"wait": 1}),
        ("But wait! Let me\ncheck: 3", {"but wait": 1, "let me check": 1}),
        ("WAIT wait", {"wait": 2}),
        ("waiting for the waiter", {}),
        ("unchecked checks", {}),
        ("Let me think... maybe; perhaps?", {"let me think": 1, "maybe": 1, "perhaps": 1}),
        ("wait-but", {"wait but": 1}),
        ("", {}),
    ],
)
def test_phrases_are_found_whatever_case_and_punctuation(
    text: str, phrases: dict[str, int]
) -> None:
    assert dict(count_phrases(text)) == phrases


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_phrase_of_the_dictionary_can_be_found(phrase: str) -> None:
    assert count_phrases(f"so, {phrase.title()}, then")[phrase] == 1


def test_count_is_the_sum() -> None:
    assert reflection_count("Wait, no. Wait, maybe.") == 3


def folded_count(text: str) -> int:
    """The dictionary counted in folded text, as mini-r1-zero's was meant."""
    longest_first = sorted(PHRASES, key=len, reverse=True)
    return len(re.findall(rf"(?<![a-z])(?:{'|'.join(longest_first)})(?![a-z])", fold(text)))


@given(st.lists(st.sampled_from([*" ".join(PHRASES).split(), "-", "\n", "7", "\u0130", "x"])))
def test_the_recorded_count_is_that_of_the_folded_text(words: list[str]) -> None:
    for text in (" ".join(words), "".join(words), ", ".join(words).upper()):
        assert reflection_count(text) == folded_count(text)
        assert sum(count_phrases(text).values()) == folded_count(text)


def test_a_task_adds_phrases_that_are_not_recorded() -> None:
    text = "Hold on. That's too high, let me re-check."
    assert dict(count_phrases(text)) == {"let me": 1, "check": 1}
    assert dict(count_phrases(text, "math")) == {"hold on": 1, "let me re": 1, "check": 1}
    assert count_phrases(text, "countdown") - count_phrases(text, "math") == {"too high": 1}
    assert count_phrases(text, "a task of your own") == count_phrases(text, "custom")
    assert reflection_count(text) == 2


@pytest.mark.parametrize(
    ("task", "phrase"),
    [("custom", phrase) for phrase in EXTENDED_PHRASES]
    + [(task, phrase) for task, own in TASK_PHRASES.items() for phrase in own],
)
def test_every_added_phrase_can_be_found(task: str, phrase: str) -> None:
    assert count_phrases(f"so, {phrase.title()}, then", task)[phrase] == 1
