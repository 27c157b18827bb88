"""Analyse how one completion reasons, and sum up a step's completions for its record.

Left out: anything that needs to know the problem. The caller says if the answer is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from aha.answers.equations import WrittenStep, written_steps
from aha.reasoning.behaviours import BEHAVIOURS, Passage, find_behaviours
from aha.reasoning.reflection import reflection_count


@dataclass(frozen=True)
class Analysis:
    """The behaviours and arithmetic of a completion.

    `corrected`: the answer is right after a try that the text gave up itself, or after a false step
    that it wrote again with a true result. `reflections` counts the phrases that training records.
    """

    passages: tuple[Passage, ...]
    steps: tuple[WrittenStep, ...]
    corrected: bool
    reflections: int

    def shows(self, behaviour: str) -> bool:
        return any(passage.behaviour == behaviour for passage in self.passages)


def analyse(text: str, task: str, correct: bool) -> Analysis:
    """The analysis of a completion of `task`; `correct` is true if its answer is right."""
    passages, steps = find_behaviours(text, task), written_steps(text)
    gave_up = any(passage.behaviour == "backtracking" for passage in passages)
    corrected = correct and (gave_up or _redone(text, steps))
    return Analysis(passages, steps, corrected, reflection_count(text))


def step_metrics(analyses: Sequence[Analysis]) -> dict[str, float | None]:
    """The metrics of a step's completions for its record.

    `*_rate` is a share of completions, 0 to 1. `backtracks` and `steps` are means a completion.
    `steps_true` is the share of all compared steps that are true. None is a share of nothing.
    """
    values: dict[str, list[float]] = {
        f"reasoning/{behaviour}_rate": [analysis.shows(behaviour) for analysis in analyses]
        for behaviour in BEHAVIOURS
    }
    values |= {
        "reasoning/backtracks": [
            sum(passage.behaviour == "backtracking" for passage in analysis.passages)
            for analysis in analyses
        ],
        "reasoning/corrected_rate": [analysis.corrected for analysis in analyses],
        "reasoning/steps": [len(analysis.steps) for analysis in analyses],
        "reasoning/steps_true": [step.true for analysis in analyses for step in analysis.steps],
    }
    return {key: fmean(known) if known else None for key, known in values.items()}


def _redone(text: str, steps: Iterable[WrittenStep]) -> bool:
    """True if the arithmetic of a false step comes again later, with a true result."""
    false: set[str] = set()
    for step in steps:
        arithmetic = _arithmetic(text[step.start : step.end])
        if not step.true:
            false.add(arithmetic)
        elif arithmetic and arithmetic in false:
            return True
    return False


def _arithmetic(equation: str) -> str:
    """The side with the operators, without blanks; "" for the later part of a chain."""
    left, _, right = "".join(equation.split()).partition("=")
    side = left if any(sign in left[1:] for sign in "+-*/\u00d7\u00f7\\") else right
    return "" if left[:1] in ("", "+", "*", "/") else side
