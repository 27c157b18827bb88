"""Completions that tried to be paid for nothing, or were refused though right: one line each."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aha.answers.tags import strict_answer, with_opened_thoughts
from aha.rewards import REWARDS, load_reward
from aha.tasks import check_completion

COUNTDOWN = {"target": 65, "nums": [55, 10]}
SIX = {"target": 6, "nums": [1, 2, 3]}
FIFTEEN = {"target": 3, "nums": [1, 5, 2]}
GSM = {"answer": "72"}
BIG = {"answer": "She makes 3*400=<<3*400=1200>>1200.\n#### 1,200"}
NEGATIVE = {"answer": "-3"}
HALF = {"solution": "So it is $\\boxed{\\frac{1}{2}}$."}
INTERVAL = {"answer": "(3,4]"}
TUPLE = {"answer": "\\left( 3, \\frac{\\pi}{2} \\right)"}
ROOT = {"answer": "3\\sqrt{13}"}
DEGREES = {"answer": "90^\\circ"}
BELOW = {"answer": "(-\u221e,3)"}
THIRD = {"answer": "0.\\overline{3}"}
TIME = {"answer": "4:30"}
SIXFOLD = {"answer": "6"}
WORD = {"answer": "\\text{Evelyn}"}

# What stands in the answer block, and whether it is right.
ANSWERS: list[tuple[dict[str, Any], str, bool]] = [
    # Countdown: right, however it is written.
    (COUNTDOWN, "55 + 10", True),
    (COUNTDOWN, "10+55", True),
    (COUNTDOWN, "65 = 55 + 10", True),
    (COUNTDOWN, "55 + 10 = 65", True),
    (COUNTDOWN, "(55) + (10)", True),
    (COUNTDOWN, "\n55 +\n10\n", True),
    (COUNTDOWN, "55\u00a0+\u00a010", True),
    (COUNTDOWN, "-(-55) + 10", True),
    (COUNTDOWN, "55 - -10", True),
    (SIX, "1 \u00d7 2 \u00d7 3", True),
    (SIX, "1 + 2 + 3", True),
    (SIX, "3 \u00f7 1 \u00d7 2", True),
    (SIX, "2 \u22c5 3 \u00b7 1", True),
    (SIX, "3 \u2212 (1 \u2212 2) \u2212 1", False),
    (SIX, "2 * 3 / 1", True),
    (SIX, "3 / (1 / 2)", True),
    # Countdown: right, whatever is written around it.
    (COUNTDOWN, "\\boxed{55+10}", True),
    (COUNTDOWN, "\\boxed{55 + 10 = 65}", True),
    (COUNTDOWN, "\\boxed{55 + 10} = 65", True),
    (COUNTDOWN, "55 + 10 = \\boxed{65}", True),
    (COUNTDOWN, "\\boxed{55 + 10.}", True),
    (COUNTDOWN, "$\\boxed{55 + 10}$.", True),
    (SIX, "\\boxed{1 + 2} * 3 - 3", False),
    (SIX, "\\boxed{3 - 1} * \\fbox{3}", False),
    (SIX, "\\boxed{3 - 1} * 3", False),
    ({"target": 9, "nums": [1, 2, 3]}, "\\boxed{1 + 2} * 3", True),
    ({"target": 7, "nums": [1, 2, 3]}, "\\boxed{1 + 2} * 3", False),
    (COUNTDOWN, "\\boxed{55+11}", False),
    (COUNTDOWN, "\\boxed{55 + 10} = 66", False),
    (COUNTDOWN, "55 + 10 = \\boxed{66}", False),
    (COUNTDOWN, "\\boxed{55} \\boxed{10}", False),
    (COUNTDOWN, "\\boxed{55 + 10", False),
    (COUNTDOWN, "\\boxed{55+10} or \\boxed{55-10}", False),
    (COUNTDOWN, "The answer is \\boxed{55 + 10}", False),
    (COUNTDOWN, "$55 + 10$", True),
    (COUNTDOWN, "$$55 + 10 = 65$$", True),
    (COUNTDOWN, "$55 + 10$ = $65$", True),
    (COUNTDOWN, "\\(55+10\\)", True),
    (COUNTDOWN, "\\[ 55 + 10 = 65 \\]", True),
    (COUNTDOWN, "$55 + 11$", False),
    (COUNTDOWN, "\\(55+11\\)", False),
    (COUNTDOWN, "5$5 + 10", False),
    (COUNTDOWN, "\\(55+10", True),
    (COUNTDOWN, "55 + 10 = 65.", True),
    (COUNTDOWN, "55 + 10.", True),
    (COUNTDOWN, "**55 + 10.**", True),
    (COUNTDOWN, "**55 + 10**.", True),
    (COUNTDOWN, "55 + 10 = 66.", False),
    (COUNTDOWN, "55 + 10 = 65..", False),
    (COUNTDOWN, "55. + 10", False),
    (COUNTDOWN, "55 + 10 = 65.5", False),
    (FIFTEEN, "1.5 * 2.", False),
    (COUNTDOWN, "`55 + 10`", True),
    (COUNTDOWN, "```\n55 + 10 = 65\n```", True),
    (COUNTDOWN, "`55 + 11`", False),
    (COUNTDOWN, "5`5 + 10", False),
    (COUNTDOWN, "```python\n55 + 10\n```", False),
    (COUNTDOWN, "**55 + 10**", True),
    (COUNTDOWN, "*55 + 10*", True),
    (COUNTDOWN, "**55 + 10 = 65**", True),
    (COUNTDOWN, "**55 + 10** = **65**", True),
    (COUNTDOWN, "65 = **55 + 10**", True),
    (COUNTDOWN, "**$55 + 10$**", True),
    (SIX, "**1*2*3**", True),
    (SIX, "*1 * 2 * 3*", True),
    (COUNTDOWN, "**55 + 11**", False),
    (COUNTDOWN, "**55 + 10", False),
    (COUNTDOWN, "55 + 10**", False),
    (COUNTDOWN, "55 + 10 *", False),
    (COUNTDOWN, "**55 + 10*", False),
    (COUNTDOWN, "**55** + **10**", False),
    (SIX, "**1**2**3**", False),
    (COUNTDOWN, "55 \uff0b 10", True),
    (COUNTDOWN, "\uff15\uff15\uff0b\uff11\uff10\uff1d\uff16\uff15", True),
    (COUNTDOWN, "\uff0855\uff0b10\uff09", True),
    (SIX, "1 \uff0a 2 \uff0a 3", True),
    (SIX, "3 \uff0f \uff081 \uff0f 2\uff09", True),
    (COUNTDOWN, "55 \uff0d \uff0810 \uff0d 20\uff09", False),
    (COUNTDOWN, "55 \uff0b 11", False),
    (COUNTDOWN, "55 \uff0b 10 \uff1d 66", False),
    (FIFTEEN, "1\uff0e5 * 2", False),
    # Countdown: wrong value, wrong numbers.
    (COUNTDOWN, "55 + 10 = 66", False),
    (COUNTDOWN, "-65 = 55 + 10", False),
    (COUNTDOWN, "55 + 10 = x", False),
    (COUNTDOWN, "55 + 10 = 60 + 5", True),
    (SIX, "1 \\times 2 \\cdot 3", True),
    (COUNTDOWN, "55 - 10", False),
    (COUNTDOWN, "65", False),
    (COUNTDOWN, "65 = 65", False),
    (COUNTDOWN, "55 + 10 + 0", False),
    (COUNTDOWN, "55 + 10 + 10 - 10", False),
    (COUNTDOWN, "55 + 5 + 5", False),
    (COUNTDOWN, "(55 + 10) * 1", False),
    (COUNTDOWN, "10 + 10 + 45", False),
    (COUNTDOWN, "5 5 + 10", False),
    (COUNTDOWN, "55 + 1 0", False),
    (COUNTDOWN, "130 / 2", False),
    (SIX, "12 / 2", False),
    (SIX, "123 - 117", False),
    (SIX, "1 * 2 * 3 * 1", False),
    (SIX, "3 * 2", False),
    (SIX, "6", False),
    # Countdown: decimals and digits glued together.
    (FIFTEEN, "1.5*2", False),
    (FIFTEEN, "1.5 * 2", False),
    (FIFTEEN, "15 / 2", False),
    (FIFTEEN, ".5 * 2 + 1", False),
    (FIFTEEN, "1,5 * 2", False),
    (FIFTEEN, "5 - 2 / 1", True),
    # Countdown: things that eval would have run.
    (COUNTDOWN, "95**88**77", False),
    (COUNTDOWN, "55 ** 1 + 10", False),
    (COUNTDOWN, "9**9**9**9", False),
    (COUNTDOWN, "55 // 1 + 10", False),
    (COUNTDOWN, "55 + 10 #", False),
    (COUNTDOWN, "55 + 10; 1", False),
    (COUNTDOWN, "55 % 56 + 10", False),
    (COUNTDOWN, "55 | 10", False),
    (COUNTDOWN, "55 << 10", False),
    (COUNTDOWN, "__import__('os').system('true') or 65", False),
    (COUNTDOWN, "exec('1')", False),
    (COUNTDOWN, "lambda: 65", False),
    (COUNTDOWN, "int('65')", False),
    (COUNTDOWN, "[55 + 10][0]", False),
    (COUNTDOWN, "0x41", False),
    (COUNTDOWN, "0b1000001", False),
    (COUNTDOWN, "6.5e1", False),
    (COUNTDOWN, "55_0 / 10 + 10", False),
    (COUNTDOWN, "55 + 10j", False),
    (COUNTDOWN, "True * 65", False),
    (COUNTDOWN, "55 if 10 else 0", False),
    (COUNTDOWN, "nums[0] + nums[1]", False),
    (COUNTDOWN, "target", False),
    (COUNTDOWN, "{55 + 10}", False),
    (COUNTDOWN, "55 + 10 == 65", False),
    (COUNTDOWN, "55 + 10 != 0", False),
    (COUNTDOWN, "55 + 10 = 65 = 65", False),
    (COUNTDOWN, "= 55 + 10", True),
    (COUNTDOWN, "55 + 10 = ", True),
    (COUNTDOWN, "1/0", False),
    (COUNTDOWN, "55 / (10 - 10)", False),
    (COUNTDOWN, "(" * 5_000 + "55 + 10" + ")" * 5_000, False),
    (COUNTDOWN, "-" * 5_000 + "55 + 10", False),
    (COUNTDOWN, "9" * 100_000, False),
    (COUNTDOWN, "55 + 10" + " " * 100_000, True),
    (COUNTDOWN, "1+" * 50_000 + "1", False),
    (COUNTDOWN, "\u0665\u0665 + 10", False),
    (COUNTDOWN, "55 + 10\u0000", False),
    (COUNTDOWN, "\u202e55 + 10", False),
    (COUNTDOWN, "55 plus 10", False),
    (COUNTDOWN, "fifty-five + 10", False),
    (COUNTDOWN, "The answer is 55 + 10", False),
    (COUNTDOWN, "", False),
    (COUNTDOWN, "   ", False),
    # Numbers: right, however they are written.
    (GSM, "72", True),
    (GSM, " 72 ", True),
    (GSM, "72.0", True),
    (GSM, "72.", True),
    (GSM, "$72", True),
    (GSM, "$72.00", True),
    (GSM, "\\$72", True),
    (GSM, "72 dollars", True),
    (GSM, "72 clips", True),
    (GSM, "72%", True),
    (GSM, "x = 72", True),
    (GSM, "\\boxed{72}", True),
    (GSM, "144/2", True),
    (GSM, "072", True),
    (GSM, "+72", True),
    (GSM, "\\frac{144}{2}", True),
    (GSM, "\\text{72}", True),
    (BIG, "1200", True),
    (BIG, "1,200", True),
    (BIG, "$1,200.00", True),
    (BIG, "1200.000", True),
    (NEGATIVE, "-3", True),
    (NEGATIVE, "\u22123", True),
    (NEGATIVE, "- 3", True),
    (NEGATIVE, "\u20133", True),
    (GSM, "72\u20ac", True),
    (GSM, "72 \u20ac", True),
    (GSM, "72$", True),
    (GSM, "7.2e1", True),
    (GSM, "720e-1", True),
    (GSM, "72 cm^2", True),
    (GSM, "72 \\text{ cm}^2", True),
    (GSM, "72 m\u00b2", True),
    (GSM, "72 T-shirts", True),
    (GSM, "Total cost: $72", True),
    (GSM, "**Total cost:** $72", True),
    (GSM, "Janet's part-time pay: 72 dollars", True),
    (GSM, "9 * 8 = 72", True),
    (GSM, "$9 * 8 = $72", True),
    (GSM, "28.8 * 2.5 = 72", True),
    (GSM, "(1,000 - 280) / 10 = 72.", True),
    (GSM, "9 \\times 8 = 72 \\text{ clips}", True),
    (BIG, "1 200", True),
    (BIG, "1.2e3", True),
    (BIG, "1E3 + 200 = 1200", False),
    (BIG, "1,000 + 200 = 1,200", True),
    ({"answer": "25%"}, "0.25", True),
    ({"answer": "25%"}, "25 %", True),
    ({"answer": "18000"}, "18\u202f000", True),
    # Numbers: wrong.
    (GSM, "73\u20ac", False),
    (GSM, "$72\u20ac", False),
    (GSM, "72\u20ac73", False),
    (GSM, "7.3e1", False),
    (GSM, "72e1", False),
    (GSM, "72e", False),
    (GSM, "72e999", False),
    (GSM, "72^2 cm", False),
    (GSM, "72 x^2", False),
    (GSM, "72 s^2", False),
    (GSM, "72cm^4", False),
    (GSM, "73 T-shirts", False),
    (GSM, "72 x-rays", False),
    (GSM, "72 t-x", False),
    (GSM, "72 twenty-one", False),
    (GSM, "72 two-thirds", False),
    (GSM, "72 T-shirts or 73", False),
    (GSM, "Total cost: $73", False),
    (GSM, "Total cost: $72 or $73", False),
    (GSM, "Total cost: $60 + $12", False),
    (GSM, "Not: 72", False),
    (GSM, "The answer is not: 72", False),
    (GSM, "At least: 72", False),
    (GSM, "More than: 72", False),
    (GSM, "x: 72", False),
    (GSM, "2: 72", False),
    (GSM, "60:72", False),
    (GSM, "9 * 9 = 72", False),
    (GSM, "9 * 8 = 73", False),
    (GSM, "9 * x = 72", False),
    (GSM, "9 * 8 = 72 = 72", False),
    (GSM, "9 * 8 = 72 or 73", False),
    (GSM, "1/0 = 72", False),
    (GSM, "She makes 72 or 73", False),
    (GSM, "She makes 72", False),
    (BIG, "1 20", False),
    (BIG, "12 00", False),
    (BIG, "1 200 0", False),
    (BIG, "0 200", False),
    (BIG, "1  200", False),
    (BIG, "1 200 or 1 300", False),
    ({"answer": "25%"}, "0.025", False),
    ({"answer": "25%"}, "2.5", False),
    (GSM, "73", False),
    (GSM, "-72", False),
    (GSM, "7.2", False),
    (GSM, "720", False),
    (GSM, "7 2", False),
    (GSM, "72 or 73", False),
    (GSM, "73 or 72", False),
    (GSM, "72, 73", False),
    (GSM, "not 72", False),
    (GSM, "the answer is 72 or 73", False),
    (GSM, "72 million", False),
    (GSM, "72 dozen", False),
    (GSM, "72x", False),
    (GSM, "72!", False),
    (GSM, "72^2", False),
    (GSM, "72\\pi", False),
    (GSM, "0x48", False),
    (GSM, "seventy-two", False),
    (GSM, "7,2", False),
    (GSM, "", False),
    (GSM, "#### 72 or not", False),
    (BIG, "1,2", False),
    (BIG, "12,00", False),
    (BIG, "1.200", False),
    (BIG, "120", False),
    (BIG, "$1.20", False),
    (NEGATIVE, "3", False),
    (NEGATIVE, "--3", False),
    # Mathematics: right.
    (HALF, "\\frac{1}{2}", True),
    (HALF, "\\dfrac12", True),
    (HALF, "\\tfrac{1}{2}", True),
    (HALF, "1/2", True),
    (HALF, "0.5", True),
    (HALF, ".5", True),
    (HALF, "$\\frac{1}{2}$", True),
    (HALF, "\\boxed{\\frac{2}{4}}", True),
    (INTERVAL, "(3, 4]", True),
    (INTERVAL, "\\left(3,4\\right]", True),
    (TUPLE, "(3, \\pi/2)", True),
    (TUPLE, "\\left(3,\\frac{\\pi}{2}\\right)", True),
    (ROOT, "3\\sqrt{13}", True),
    (ROOT, "3 \\sqrt{13}", True),
    (ROOT, "\\sqrt{117}", True),
    (DEGREES, "90", True),
    (DEGREES, "90\u00b0", True),
    (DEGREES, "90^{\\circ}", True),
    (WORD, "\\text{Evelyn}", True),
    (WORD, "Evelyn", True),
    (ROOT, "3\u221a13", True),
    (ROOT, "3\u221a(13)", True),
    (ROOT, "\u221a117", True),
    (BELOW, "x<3", True),
    (BELOW, "x < 3", True),
    (BELOW, "3 > x", True),
    (BELOW, "(-\\infty, 3)", True),
    ({"answer": "(-\\infty,3]"}, "x\u22643", True),
    ({"answer": "(-\\infty,3]"}, "x \\le 3", True),
    (THIRD, "1/3", True),
    (THIRD, "\\frac{1}{3}", True),
    (THIRD, "0.\\overline{3}", True),
    ({"answer": "\\frac{1}{6}"}, "0.1\\overline{6}", True),
    ({"answer": "-\\frac{4}{3}"}, "-1.\\overline{3}", True),
    (TIME, "4:30", True),
    (TIME, "04:30", True),
    (TIME, "4:30 \\text{ p.m.}", True),
    ({"answer": "2:1"}, "4:2", True),
    (SIXFOLD, "6 \\text{ cm}", True),
    (SIXFOLD, "6\\text{ m}", True),
    (SIXFOLD, "6 \\text{ N}", True),
    (SIXFOLD, "6 \\text{ apples}", True),
    ({"answer": "6\\text{x}"}, "6x", True),
    ({"answer": "6\\sqrt{2}"}, "6\\sqrt{2}\\text{ m}", True),
    # Mathematics: wrong.
    (ROOT, "3\u221a12", False),
    (ROOT, "3\u221a1", False),
    (ROOT, "\u221a13", False),
    (BELOW, "x\u22643", False),
    (BELOW, "x>3", False),
    (BELOW, "x<4", False),
    (BELOW, "0<x<3", False),
    (BELOW, "3", False),
    ({"answer": "3"}, "x<3", False),
    (THIRD, "0.3", False),
    (THIRD, "0.333", False),
    (THIRD, "0.\\overline{4}", False),
    (THIRD, "3", False),
    (THIRD, "0.0\\overline{3}", False),
    ({"answer": "\\frac{7}{3}"}, "2 0.\\overline{3}", False),
    (TIME, "2:15", False),
    (TIME, "2:15 \\text{ p.m.}", False),
    (TIME, "4:31", False),
    ({"answer": "4:30 \\text{ a.m.}"}, "4:30 \\text{ P.M.}", False),
    ({"answer": "4:30 \\text{ a.m.}"}, "4:30", True),
    (TIME, "14:30", False),
    (SIXFOLD, "6\\text{x}", False),
    (SIXFOLD, "6\\text{ x}", False),
    (SIXFOLD, "6\\mathrm{x}", False),
    (SIXFOLD, "7 \\text{ cm}", False),
    ({"answer": "6\\text{x}"}, "6", False),
    ({"answer": "6\\sqrt{2}"}, "6\\sqrt{2}\\text{x}", False),
    ({"answer": "6\\pi"}, "6\\pi\\text{ r}", False),
    (HALF, "\\frac{1}{3}", False),
    (HALF, "2", False),
    (HALF, "\\frac{1}{2}x", False),
    (HALF, "-\\frac{1}{2}", False),
    (INTERVAL, "[3, 4]", False),
    (INTERVAL, "(3, 4)", False),
    (INTERVAL, "(3, 5]", False),
    (TUPLE, "(3, \\pi)", False),
    (TUPLE, "(\\pi/2, 3)", False),
    (ROOT, "\\sqrt{13}", False),
    (ROOT, "3\\sqrt{12}", False),
    (DEGREES, "91", False),
    (DEGREES, "9", False),
    (WORD, "Evelyn or Angela", False),
    (WORD, "Angela", False),
    (WORD, "", False),
]


def wrapped(answer: str) -> str:
    return f"<think>thoughts</think> <answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("columns", "answer", "right"),
    ANSWERS,
    ids=[f"{i}-{answer[:24]!r}" for i, (_, answer, _) in enumerate(ANSWERS)],
)
def test_an_answer_is_right_or_wrong(columns: dict[str, Any], answer: str, right: bool) -> None:
    verdict = check_completion("p", wrapped(answer), columns)
    assert verdict.lenient is right
    assert verdict.strict is right


GOOD = "<answer>55 + 10</answer>"
# Whole completions after a prompt that opened <think>, and the strict and lenient verdicts.
LAYOUTS: list[tuple[str, bool, bool]] = [
    (f"x</think>{GOOD}", True, True),
    (f"x\ny\n</think>\n\n{GOOD}\n", True, True),
    (f"</think>{GOOD}", True, True),
    (f"x</think> so {GOOD}", False, True),
    (f"x</think>{GOOD} and more", False, True),
    (f"x</think>{GOOD}</answer>", False, True),
    (f"x</think>{GOOD}<answer>1</answer>", False, False),
    (f"x</think><answer>1</answer>{GOOD}", False, True),
    (f"x</think>{GOOD}{GOOD}", False, True),
    (f"x{GOOD}</think>", False, True),
    (f"{GOOD}x</think>", False, True),
    (f"<think>x</think>{GOOD}", False, True),
    (f"x</think></think>{GOOD}", False, True),
    (f"x</think><think>y</think>{GOOD}", False, True),
    (f"x</THINK>{GOOD}", False, True),
    ("x</think><ANSWER>55 + 10</ANSWER>", False, True),
    ("x</think><Answer>55 + 10</answer>", False, True),
    ("x</think><answer>55 + 10", False, False),
    ("x</think>55 + 10</answer>", False, False),
    ("x</think></answer>55 + 10<answer>", False, False),
    ("x</think><answer><answer>55 + 10</answer></answer>", False, True),
    ("x</think><answer>1<answer>55 + 10</answer>", False, True),
    ("x</think><answer>55 + 10</answer><answer>", False, True),
    ("x</think>< answer>55 + 10</ answer>", False, False),
    ("x</think>&lt;answer&gt;55 + 10&lt;/answer&gt;", False, False),
    ("x</think><answer >55 + 10</answer>", False, False),
    ("55 + 10", False, False),
    ("x</think>\\boxed{55 + 10}", False, False),
    ("x</think>#### 55 + 10", False, False),
    ("x</reasoning><answer>55 + 10</answer>", False, True),
    ("", False, False),
    ("<answer></answer>" * 1_000, False, False),
    (f"{'<answer>' * 1_000}55 + 10</answer>", False, True),
]


@pytest.mark.parametrize(("completion", "strict", "lenient"), LAYOUTS)
def test_a_layout_is_as_asked_or_not(completion: str, strict: bool, lenient: bool) -> None:
    verdict = check_completion("Make 65. <think>", completion, COUNTDOWN, "think")
    assert (verdict.strict, verdict.lenient) == (strict, lenient)
    assert verdict.well_formed is strict
    reward = load_reward("format")(prompts=["Make 65. <think>"], completions=[completion])
    assert reward == [1.0 if strict else 0.0]


def test_there_are_enough_cases() -> None:
    assert len(ANSWERS) + len(LAYOUTS) >= 150


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9", "9^{9^{9^{9}}}", "10^{10^{10}}", "\\sum_{k=1}^{10^9} \\frac{1}{k^2}",
        "\\int_0^{\\infty} e^{-x^2} \\sin(x^x) dx", "(x+1)^{1000000}", "1000000!!!",
        "\\binom{10^9}{10^8}", "\\sqrt{" * 200 + "2" + "}" * 200, "x^{x^{x^{x^{x^{x}}}}}",
        "\\frac{1}{" * 300 + "2" + "}" * 300, "{" * 900, "\\lim_{x \\to 0} x^{x^x}",
        "\\prod_{i=1}^{10^8} i", "123456789^{123456789}",
    ],
)  # fmt: skip
def test_hostile_mathematics_costs_at_most_its_time(answer: str) -> None:
    load_reward("accuracy")(prompts=["p"], completions=[wrapped("x+2")], answer=["2+x"])
    started = time.monotonic()
    values = load_reward("accuracy")(prompts=["p"], completions=[wrapped(answer)], answer=["7"])
    assert values == [0.0]
    # Two seconds, and the start of a new worker should the machine be busy.
    assert time.monotonic() - started < 15
    again = load_reward("accuracy")(prompts=["p"], completions=[wrapped("y+1")], answer=["1+y"])
    assert again == [1.0]


PIECES = st.sampled_from(
    [
        "<think>", "</think>", "<answer>", "</answer>", "<reasoning>", "</reasoning>", "<ANSWER>",
        "\\boxed{", "}", "####", "=", "55", "10", "65", " + ", "-", "*", "/", "(", ")", "**", ".",
        ",", "$", "%", "\n", " ", "Step 1:", "Wait, ", "\u2212", "\u00d7", "\x00", "\u202e", "1e9",
        "\\frac", "{", "x", "\ud7ff", "First, ", "- ",
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=80)


def score_everything(text: str) -> None:
    for prompt in ("p", "p <think>"):
        for name, kind in REWARDS.items():
            if not {"target", "nums", "completion_ids"}.issuperset(kind.needs):
                continue  # of another task
            limit = {"length_penalty", "soft_overlong", "eos"}
            reward = load_reward(name, **({"max_length": 40} if name in limit else {}))
            (value,) = reward(
                prompts=[prompt],
                completions=[text],
                completion_ids=[list(range(len(text)))],
                target=[65],
                nums=[[55, 10]],
            )
            assert value is None or -1.0 <= value <= 2.0
        verdict = check_completion(prompt, text, COUNTDOWN)
        if verdict.strict:
            assert verdict.lenient
            assert strict_answer(with_opened_thoughts(prompt, text)) is not None
            # No false positive: a right answer has exactly these digits in it.
            digits = sorted(c for c in (verdict.answer or "").partition("=")[0] if c.isdigit())
            swapped = sorted(c for c in (verdict.answer or "").partition("=")[2] if c.isdigit())
            assert sorted("5510") in (digits, swapped)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS)
def test_no_text_raises_or_leaves_the_range(text: str) -> None:
    score_everything(text)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS)
def test_no_text_of_twenty_thousand_raises_or_leaves_the_range(text: str) -> None:
    score_everything(text)


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 15_000, "<reasoning>" * 9_000, "<reasoning></reasoning>" * 4_500, "{" * 100_000,
     "<answer>" * 12_000, "</reasoning>\n<answer>\n" * 4_000, "#### " * 20_000, "1. a b\n" * 15_000,
     "=" * 100_000, "<think>" * 14_000 + "</think>" * 14_000],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_a_hundred_kilobytes_take_no_longer_than_they_should(text: str) -> None:
    score_everything("warm")
    started = time.monotonic()
    score_everything(text)
    # Quadratic scans took 2 to 33 seconds here; linear ones take tenths.
    assert time.monotonic() - started < 5
