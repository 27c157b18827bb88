from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aha.answers.tags import lenient_answer, strict_answer, text_of, with_opened_thoughts

GOOD = "<think> 1 + 2\n = 3 </think>\n<answer> 3 </answer>\n"


def test_strict_reads_the_asked_layout_across_lines() -> None:
    assert strict_answer(GOOD) == "3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        GOOD + "and more",
        "first " + GOOD,
        GOOD.replace("\n<answer>", " so <answer>"),
        GOOD + "<answer>4</answer>",
        "<answer>3</answer><think>x</think>",
        "<think>x<answer>3</answer></think>",
        "<think>x</think><answer>3",
        "<think>x</think></answer>3<answer>",
        "<think>x</think><think>y</think><answer>3</answer>",
        GOOD.upper(),
    ],
)
def test_strict_refuses_any_other_layout(text: str) -> None:
    assert strict_answer(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (GOOD, "3"),
        ("<answer>1</answer> no <answer>2</answer>", "2"),
        ("<ANSWER>5</Answer>", "5"),
        ("<answer>1</answer><answer>2", "1"),
        ("<answer>1<answer>2</answer>", "2"),
        ("</answer>1<answer>", None),
        ("<answer>1", None),
        ("<answer></answer>", ""),
        ("no tags", None),
        ("so #### 72", "72"),
        ("#### 72</think> <answer>1", "72"),
        ("\\boxed{1} and \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} <answer>2</answer>", "2"),
    ],
)
def test_lenient_reads_the_last_closed_block(text: str, answer: str | None) -> None:
    assert lenient_answer(text) == answer


def test_a_prompt_may_have_opened_the_think_block() -> None:
    completion = "x</think><answer>3</answer>"
    assert strict_answer(with_opened_thoughts("Make 3. <think>", completion)) == "3"
    assert strict_answer(with_opened_thoughts("Make 3. <think>\n", completion)) == "3"
    assert strict_answer(with_opened_thoughts("Make 3.", completion)) is None
    assert strict_answer(with_opened_thoughts("Write <think> tags.", completion)) is None


def test_chat_messages_are_read_by_their_last_content() -> None:
    assert text_of([{"role": "assistant", "content": "hello"}]) == "hello"
    assert text_of([{"role": "assistant", "content": None}]) == ""
    assert text_of([]) == ""


@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<answer>", "</answer>", "<ANSWER>", "7", " ", "\n"]
        )
    ).map("".join)
)
def test_what_strict_reads_lenient_reads_too(text: str) -> None:
    strict = strict_answer(text)
    if strict is not None:
        assert lenient_answer(text) == strict
