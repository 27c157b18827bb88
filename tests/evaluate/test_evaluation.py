from __future__ import annotations

import pytest

from aha.evaluate.evaluation import evaluate
from aha.reasoning.compare import wilson_interval
from aha.rollout.base import SamplingSettings
from aha.tasks.countdown import make_problem
from aha.types import Prompt
from scripted import ScriptedEngine


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Worked by hand from Wilson's formula with z = 1.959964.
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (10, 10, 0.722467, 1.0),
     (301, 500, 0.558475, 0.643970)],
)  # fmt: skip
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_no_share_has_no_interval(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a share"):
        wilson_interval(successes, n)


def test_summary_by_hand() -> None:
    answers = {
        "right": "5 + 6 </think> <answer> 5 + 6 </answer>",
        "sloppy": "Wait, hm. </think> <answer> 5 + 6 </answer> done",
        "wrong": "Wait, no. Wait, </think> <answer> 5 - 6 </answer>",
        "long": " ".join(["7"] * 50),
    }
    problems = [make_problem([5, 6], 11)] * 4
    prompts = [Prompt(f"{name} <think>", "<think>", ()) for name in answers]
    engine = ScriptedEngine(
        lambda prompt, _: answers[prompt.text.split()[0]], lambda text: [0] * len(text.split())
    )
    result = evaluate(engine, problems, prompts, SamplingSettings(20), seed=0)
    summary = result.summary
    assert summary["n"] == 4
    assert summary["accuracy"] == 0.25
    assert summary["accuracy_lenient"] == 0.5
    assert summary["format_rate"] == 0.5
    assert summary["reflection_rate"] == 0.75
    assert summary["truncated_rate"] == 0.25
    assert summary["ci95"] == pytest.approx(wilson_interval(1, 4))
    assert [r["correct"] for r in result.records] == [True, False, False, False]


def test_problems_that_are_all_missed_are_not_known_to_be_impossible() -> None:
    problems = [make_problem([5, 6], 11)] * 20
    prompts = [Prompt("p <think>", "<think>", ())] * 20
    engine = ScriptedEngine(lambda *_: "no </think>", lambda text: [0] * len(text.split()))
    summary = evaluate(engine, problems, prompts, SamplingSettings(20), seed=0, samples=4).summary
    assert summary["accuracy"] == 0.0
    assert summary["ci95"] == list(wilson_interval(0, 20))
    assert summary["by_difficulty"]["2 numbers"]["ci95"] == list(wilson_interval(0, 20))
