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


@pytest.mark.parametrize(
    ("layout", "text", "answer"),
    [
        ("hash", "3 + 4 = 7\n#### 7\n", "7"),
        ("hash", "#### -1,234.5", "-1,234.5"),
        ("hash", "#### $7", "$7"),
        ("hash", "#### 7 and more", None),
        ("hash", "#### 7 #### 7", None),
        ("hash", "#### seven", None),
        ("hash", "####", None),
        ("hash", "7", None),
        ("hash", GOOD, None),
        ("boxed", "so \\(\\boxed{\\frac{1}{2}}\\).", "\\frac{1}{2}"),
        ("boxed", "<think>\\boxed{1}</think> \\boxed{2}", "2"),
        ("boxed", "\\boxed{1} or \\boxed{2}", None),
        ("boxed", "\\boxed{1", None),
        ("boxed", "#### 1", None),
        ("think", GOOD, "3"),
        ("reasoning", GOOD, None),
        ("reasoning", GOOD.replace("think", "reasoning"), "3"),
        ("think", "#### 3", None),
        (None, "#### 3", "3"),
    ],
)
def test_a_recipe_asks_for_one_layout(layout: str | None, text: str, answer: str | None) -> None:
    assert strict_answer(text, layout) == answer


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
