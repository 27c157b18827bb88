"""Measure rewards per second: `python benchmarks/rewards.py [--json FILE]`.

It uses one process and one thread. Mathematics that strings and numbers cannot decide has two
workers. Texts are made from the excerpts in tests/data, right, wrong and malformed in equal parts.
Every figure is the median of five passes, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aha.answers.equal import MathVerifier, Pair
from aha.rewards import load_reward
from aha.sections import TaskSection
from aha.tasks import TASKS
from aha.tasks.countdown import Countdown, random_steps

PASSES = 5
DATA = Path(__file__).parents[1] / "tests" / "data"


def rates(count: int, action: Callable[[], Any]) -> dict[str, float]:
    """Items a second of an action over `count` items."""
    measured = []
    for _ in range(PASSES):
        started = time.perf_counter()
        action()
        measured.append(count / (time.perf_counter() - started))
    return {"median": statistics.median(measured), "low": min(measured), "high": max(measured)}


def spoiled(text: str, index: int) -> str:
    """A third of the texts unchanged, a third without the last tag, a third with junk."""
    if index % 3 == 1:
        return text.removesuffix("</answer>")
    return f"{text} and so on" if index % 3 == 2 else text


def countdown(rows: int) -> dict[str, Any]:
    """Expressions over four numbers, with thoughts before them."""
    ranges, rng = TaskSection(), random.Random(0)
    texts, targets, nums = [], [], []
    for index, problem in zip(
        range(rows), Countdown().generate(ranges, "train", seed=0), strict=False
    ):
        numbers = problem.columns["nums"]
        steps = random_steps(numbers, 9_999, rng) or []
        thoughts = " ".join(f"{s.left} {s.operator} {s.right} = {s.value}." for s in steps) * 4
        answer = f"({' + '.join(str(n) for n in numbers)}) * 1"
        texts.append(spoiled(f"{thoughts}</think> <answer>{answer}</answer>", index))
        targets.append(problem.columns["target"])
        nums.append(numbers)
    columns = {"prompts": ["<think>"] * rows, "completions": texts, "target": targets, "nums": nums}
    return {
        name: rates(rows, lambda name=name: load_reward(name)(**columns))
        for name in ("accuracy", "equation", "format")
    }


def gsm8k(rows: int) -> dict[str, Any]:
    """Worked solutions with numbers in several forms. Every pass has new golds."""
    section = TaskSection(name="gsm8k")
    problems = TASKS["gsm8k"].read(section, str(DATA / "gsm8k.jsonl")).problems
    ways = ("{}", "${}", "{}.00", "{} dollars", " {} ")
    fresh = iter(range(10**9))

    def action() -> None:
        shift = next(fresh)
        texts, golds = [], []
        for index in range(rows):
            problem = problems[index % len(problems)]
            gold = str(index + rows * shift)
            answer = ways[index % 5].format(gold)
            text = f"{problem.columns['solution']}</think> <answer>{answer}</answer>"
            texts.append(spoiled(text, index))
            golds.append(f"... #### {gold}")
        load_reward("accuracy")(prompts=["<think>"] * rows, completions=texts, answer=golds)

    return {"accuracy": rates(rows, action)}


def math(path: Path) -> dict[str, Any]:
    """Seconds to compare the golds of a MATH set with rewritten forms of themselves."""
    golds = [json.loads(line)["answer"] for line in path.read_text("utf-8").splitlines()]
    pairs = [Pair(gold, form) for gold in golds for form in rewritten(gold)]
    verifier = MathVerifier(workers=2)
    verifier.equal("x+1", "1+x")  # the start of the workers is not measured
    started = time.perf_counter()
    outcomes = verifier.equal_many(pairs)
    seconds = time.perf_counter() - started
    verifier.close()
    return {
        "golds": len(golds),
        "pairs": len(pairs),
        "equal": outcomes.count("equal"),
        "seconds": seconds,
    }


def rewritten(gold: str) -> list[str]:
    """Other ways to write an answer that mean the same."""
    forms = [f" {gold} ", f"${gold}$", gold.replace("\\frac", "\\dfrac")]
    fraction = re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", gold)
    if fraction:
        sign, top, bottom = fraction.groups()
        forms.append(f"{sign}{top}/{bottom}")
        if (int(top) * 10_000) % int(bottom) == 0:
            forms.append(f"{sign}{int(top) / int(bottom)}")
    if gold.endswith("^\\circ"):
        forms += [gold.removesuffix("^\\circ"), gold.replace("^\\circ", "^{\\circ}")]
    if re.fullmatch(r"\d+", gold):
        forms += [f"{gold}.0", f"{int(gold):,}", f"{gold} \\text{{ cm}}"]
    if re.match(r"(\\left)?[(\[]", gold):
        forms.append(gold.replace(",", " , "))
    return forms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--math", type=Path, default=DATA / "math500.jsonl", help="a MATH set")
    arguments = parser.parse_args()
    figures = {
        "countdown_per_s": countdown(6_000),
        "gsm8k_per_s": gsm8k(6_000),
        "math": math(arguments.math),
    }
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
