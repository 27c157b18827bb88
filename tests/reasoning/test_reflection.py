from __future__ import annotations

import pytest

from aha.reasoning.reflection import PHRASES, count_phrases, reflection_count


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
