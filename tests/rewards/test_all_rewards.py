"""Every reward of the five systems, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from aha.rewards import load_reward
from aha.rewards.call import try_reward
from aha.rewards.form import count_steps
from aha.types import UserError

XML = "<reasoning>\nx\n</reasoning>\n<answer>\n72\n</answer>\n"


def value(name: str, text: str, tokens: int = 10, prompt: str = "p", **given: Any) -> float | None:
    columns = {k: v for k, v in given.items() if isinstance(v, list)}
    options = {k: v for k, v in given.items() if not isinstance(v, list)}
    return load_reward(name, **options)(
        prompts=[prompt], completions=[text], completion_ids=[[0] * tokens], **columns
    )[0]


@pytest.mark.parametrize(
    ("tokens", "right", "expected"),
    [
        (0, True, 1.0),
        (500, True, 0.9),
        (1_000, True, 0.8),
        (9_999, True, 0.8),
        (0, False, -0.5),
        (500, False, -0.3),
        (1_000, False, -0.1),
        (9_999, False, -0.1),
    ],
)
def test_cosine(tokens: int, right: bool, expected: float) -> None:
    answer = "<answer>72</answer>" if right else "<answer>73</answer>"
    assert value("cosine", answer, tokens, answer=["72"]) == pytest.approx(expected)


def test_cosine_at_a_quarter() -> None:
    expected = 0.8 + 0.2 * (1 + math.cos(math.pi / 4)) / 2
    got = value("cosine", "<answer>72</answer>", 250, answer=["72"])
    assert got == pytest.approx(expected)


def test_no_gold_means_no_reward() -> None:
    for name in ("accuracy", "cosine", "correctness"):
        assert value(name, "<answer>1</answer>", solution=["no box here"]) is None
        assert value(name, "<answer>1</answer>") is None


@pytest.mark.parametrize(
    ("tokens", "expected"), [(0, 0.0), (80, 0.0), (90, -0.5), (100, -1.0), (500, -1.0)]
)
def test_soft_overlong(tokens: int, expected: float) -> None:
    assert value("soft_overlong", "x", tokens, max_length=100) == pytest.approx(expected)


def test_eos_and_length() -> None:
    assert value("eos", "x", 99, max_length=100) == 1.0
    assert value("eos", "x", 100, max_length=100) == 0.0
    assert value("length", "x", 2_500) == 0.5
    assert value("length", "x", 50_000) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (XML, 0.5),
        (XML.replace("72", "x"), 0.0),
        (XML.replace("72", "-72"), 0.5),
        (XML.replace("72", "1,200"), 0.5),
        (XML.replace("72", "7.2"), 0.0),
        ("72", 0.0),
    ],
)
def test_int(text: str, expected: float) -> None:
    assert value("int", text) == expected


@pytest.mark.parametrize(
    ("text", "strict", "soft", "count"),
    [
        (XML, 0.5, 0.5, 0.5),
        (XML.strip(), 0.5, 0.5, 0.5),
        (XML.replace("\nx\n", "\nx\ny\n"), 0.5, 0.5, 0.5),
        ("<reasoning>x</reasoning><answer>72</answer>", 0.0, 0.5, 0.0),
        ("before\n" + XML, 0.0, 0.5, 0.5),
        (XML + "0123456789", 0.0, 0.5, 0.49),
        (XML + "x" * 900, 0.0, 0.5, 0.0),
        (XML + "<answer>\n1\n</answer>", 0.0, 0.5, 0.25),
        (XML.replace("</reasoning>", ""), 0.0, 0.0, 0.375),
        ("<answer>\n1\n</answer>\n<reasoning>\nx\n</reasoning>", 0.0, 0.0, 0.474),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_layouts_of_the_grpo_lab(text: str, strict: float, soft: float, count: float) -> None:
    assert value("strict_format", text) == strict
    assert value("soft_format", text) == soft
    assert value("xmlcount", text) == pytest.approx(count)


def test_a_prompt_may_have_opened_the_reasoning() -> None:
    rest = XML.removeprefix("<reasoning>\n")
    assert value("strict_format", rest, prompt="p\n<reasoning>\n") == 0.5
    assert value("format", rest, prompt="p <reasoning>\n", tags="reasoning") == 1.0
    assert value("format", rest, prompt="p <reasoning>\n") == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [("72", "72", 2.0), (" 72\n", "... #### 72", 2.0), ("$72", "72", 0.0), ("73", "72", 0.0)],
)
def test_correctness_is_letter_by_letter(answer: str, gold: str, expected: float) -> None:
    assert value("correctness", f"<answer>{answer}</answer>", answer=[gold]) == expected


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Step 1: add the numbers\nStep 2: divide by two\nStep 3: done at last", 3),
        ("1. add the numbers\n2. divide by two", 2),
        ("- add the numbers\n- divide by two\n* and so on", 3),
        ("First, add both numbers. Next, halve the sum. Finally, check it again.", 3),
        ("Step 1:\nStep 2:\nStep 3:", 0),
        ("Step 1: go on\nStep 2: go on\nStep 3: go on", 1),
        ("Step 1: add them up\nStep 1: take them off", 1),
        ("1.5 is not a step", 0),
        ("the first of them is next", 0),
        ("", 0),
    ],
)
def test_steps_are_distinct_and_have_content(text: str, steps: int) -> None:
    assert count_steps(text) == steps
    assert value("reasoning_steps", text) == pytest.approx(min(1, steps / 3))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Wait, no", 0.1),
        ("wait wait wait wait", 0.1),
        ("Wait. Maybe, perhaps; let me check", 0.4),
        ("Wait. Maybe, perhaps; let me check. But how? Possible. Would be.", 0.5),
        ("nothing", 0.0),
    ],
)
def test_reflection_counts_each_phrase_once_up_to_the_cap(text: str, expected: float) -> None:
    assert value("reflection", text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b c d", 0.0),
        ("a b", 0.0),
        ("", 0.0),
        ("a a a a", -0.05),
        ("a b c a b c", -0.025),
    ],
)
def test_repetition_penalty(text: str, expected: float) -> None:
    assert value("repetition_penalty", text) == pytest.approx(expected)


CUSTOM = '''
def plain(completions, **kwargs):
    return [float(len(c)) for c in completions]

def open_r1_style(completions, solution, weight=1.0):
    """Wants chat messages and one column, as open-r1's rewards do."""
    return [weight * (c[0]["content"] == s) for c, s in zip(completions, solution)]

not_a_function = 3
'''


@pytest.fixture
def custom_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CUSTOM)
    return path


def test_a_reward_of_ones_own_from_a_file(custom_file: Path) -> None:
    reward = load_reward(f"{custom_file}:plain")
    assert reward.__name__ == "plain"
    assert reward(prompts=["p"], completions=["abc"], target=[1]) == [3.0]
    chat = load_reward(f"{custom_file}:open_r1_style", weight=0.5)
    messages = [[{"role": "assistant", "content": "s"}]]
    assert chat(prompts=["p"], completions=messages, solution=["s"], other=[1]) == [0.5]


def test_a_reward_of_ones_own_from_a_module() -> None:
    reward = load_reward("aha.reasoning.reflection:reflection_count")
    assert reward.__name__ == "reflection_count"


def test_a_wrong_reference_is_one_sentence(custom_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module\n")
    for reference, options, word in [
        (f"{custom_file}:nothing", {}, "no function 'nothing'"),
        (f"{custom_file}:not_a_function", {}, "no function"),
        (f"{custom_file}:open_r1_style", {"wieght": 1}, "takes no 'wieght'"),
        (f"{tmp_path}/none.py:x", {}, "no file"),
        (f"{broken}:x", {}, "no_such_module"),
        ("no_such_module:x", {}, "cannot be imported"),
    ]:
        with pytest.raises(UserError) as caught:
            load_reward(reference, **options)
        assert word in str(caught.value)


def test_trying_a_reward_says_why(tmp_path: Path) -> None:
    path = tmp_path / "completion.txt"
    path.write_text("<think>x</think> <answer>3 * 7</answer>")
    text = try_reward("equation", path, ["target=24", "nums=[3, 8]"], [], "")
    assert text.startswith("equation: 0.1\n")
    assert "it uses [3, 7], not each of [3, 8] exactly once" in text
    path.write_text("<think>x</think> <answer>3 * 8</answer>")
    assert "verdict: right" in try_reward("accuracy", path, ["target=24", "nums=[3, 8]"], [], "")
    text = try_reward("accuracy", path, ["answer=25"], [], "")
    assert "gold: '25'" in text
    assert "verdict: wrong" in text


@pytest.mark.parametrize(
    ("columns", "options", "word"),
    [(["target"], [], "--column 'target'"), ([], [], "needs the column 'target'"),
     (["target=1", "nums=[1]"], ["corect=1"], "'corect'")],
)  # fmt: skip
def test_trying_wrongly_is_one_sentence(
    tmp_path: Path, columns: list[str], options: list[str], word: str
) -> None:
    path = tmp_path / "completion.txt"
    path.write_text("x")
    with pytest.raises(UserError) as caught:
        try_reward("equation", path, columns, options, "")
    assert word in str(caught.value)
