"""Parts of a small made run: Countdown problems, texts, records of steps and samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from aha.runs import RunDirectory

MakeRun = Callable[..., RunDirectory]

HOSTILE = (
    "<script>document.title='taken';alert(1)</script><img src=x onerror=alert(2)>"
    "</pre></details></main><h1 id=injected>x</h1>{{ 7*7 }} \x1b[31mred\x1b[0m \u202egnp.exe\u2069 "
)
TARGETS = (6, 8, 9, 12, 15, 20)


def problem(target: int) -> dict[str, Any]:
    nums = [1, 2, target - 3]
    return {
        "key": f"countdown:{target}",
        "columns": {"target": target, "nums": nums},
        "prompt": f"Make {target} from {' '.join(map(str, nums))} . <think>",
    }


def wrong(target: int) -> str:
    rest = target - 3
    return f"2 - 1 = 1 , 1 + {rest} = {rest + 1} , not {target} . </think> <answer> 2 - 1 </answer>"


def aha(target: int) -> str:
    rest = target - 3
    return (
        f"2 - 1 = 1 , 1 + {rest} = {rest + 1} , not {target} . Wait, 2 + 1 = 3 , 3 + {rest} = "
        f"{target} , yes . </think> <answer> ( 2 + 1 ) + {rest} </answer>"
    )


def evaluated(target: int, text: str, correct: bool) -> dict[str, Any]:
    return {
        **problem(target), "completion": text, "correct": correct, "correct_lenient": correct,
        "well_formed": True, "answer": "1", "tokens": 40 if correct else 20, "truncated": False,
        "reflections": 1 if correct else 0,
    }  # fmt: skip


def metric(step: int, steps: int, seed: int, reasoning: bool) -> dict[str, Any]:
    part = step / steps
    wobble = 0.05 * math.sin(step * (seed + 1))
    record = {
        "step": step, "reward": part + wobble, "accuracy": part / 2, "accuracy_lenient": part / 2,
        "format_rate": 1.0, "rewards/accuracy/mean": part / 2 + wobble, "rewards/format/mean": 1.0,
        "entropy": 0.5 - part / 4, "kl": 0.0, "learning_rate": 1e-4 * (1 - part),
        "grad_norm": 0.1 + wobble, "completions/mean_length": 40 + 80 * part,
        "completions/clipped_ratio": 0.1 * part, "reflection_rate": part,
        "frac_reward_zero_std": 0.25, "tokens": 1000, "tokens_wasted": 0.1, "skipped": False,
        "time/rollout_s": 1.0, "time/reward_s": 0.25, "time/train_s": 2.5, "time/step_s": 4.0,
        "memory/peak_gb": 0.5,
    }  # fmt: skip
    if reasoning:
        names = ("self_check", "backtracking", "subgoals", "backward_chaining", "corrected")
        for number, name in enumerate(names, start=1):
            record[f"reasoning/{name}_rate"] = part / number
        record["reasoning/backtracks"] = 3 * part
        record["reasoning/steps_true"] = 0.5 + part / 2
    return record


def sampled(step: int, target: int, texts: list[str]) -> dict[str, Any]:
    return {
        "step": step,
        **problem(target),
        "completions": [
            {
                "text": text, "tokens": 30, "truncated": False, "rewards": {"accuracy": 0.0},
                "weighted": {"accuracy": 0.0}, "reward": 0.0, "advantage": 0.0,
            }
            for text in texts
        ],
    }  # fmt: skip


def side(accuracy: float, length: float) -> dict[str, Any]:
    return {
        "n": 6, "temperature": 1.0, "accuracy": accuracy, "ci95": [0.1, 0.9],
        "accuracy_lenient": accuracy, "format_rate": 1.0, "mean_length": length,
        "reflection_rate": 0.5, "truncated_rate": 0.0,
        "by_difficulty": {
            "3 numbers": {"n": 4, "accuracy": accuracy, "ci95": [0.1, 0.9]},
            "4 numbers": {"n": 2, "accuracy": accuracy / 2, "ci95": [0.0, 0.8]},
        },
    }  # fmt: skip
