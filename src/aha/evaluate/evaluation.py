"""Held-out evaluation with the engine that trains: alone, and before, during and after a run.

`compare` tests the difference of two evaluations of the same problems.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from aha.answers.tags import LAYOUTS
from aha.evaluate.passk import clustered_interval, maj_at_k, pass_at_k, powers_up_to
from aha.reasoning.compare import rise
from aha.reasoning.reflection import reflection_count
from aha.recipe import Recipe
from aha.rollout.base import Engine, SamplingSettings, rollout_seed
from aha.runs import RunDirectory
from aha.tasks import check_completions, task_of
from aha.tasks.prompts import ask
from aha.types import Problem, Prompt, RunFailure

Record = dict[str, Any]
_SCALARS = (
    "n", "accuracy", "accuracy_lenient", "format_rate", "mean_length", "reflection_rate",
    "truncated_rate",
)  # fmt: skip
# Training steps begin at 1, so evaluations share no random stream with them.
_EVALUATION_STEP = 0


@dataclass(frozen=True)
class Evaluation:
    """Figures of one evaluation and a record per completion, problem by problem.

    `summary` is eval.json's entry: `accuracy` is strict (right, in exactly the asked `layout`),
    `accuracy_lenient` reads the last answer block; `reflection_rate` is reflection phrases
    per completion; lengths are tokens. With several completions a problem, accuracies are their
    mean and `pass@k`, `maj@k` stand beside them.
    """

    summary: dict[str, Any]
    records: tuple[Record, ...]

    def scalars(self) -> dict[str, float]:
        """The figures of a step's record in metrics.jsonl: `eval/accuracy` and its like."""
        low, high = self.summary["ci95"]
        figures = {key: self.summary[key] for key in _SCALARS}
        named = {f"eval/{key}": value for key, value in figures.items()}
        return named | {"eval/ci95_low": low, "eval/ci95_high": high}

    def __str__(self) -> str:
        summary = self.summary
        low, high = summary["ci95"]
        asked = summary["layout"]
        return (
            f"accuracy {summary['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}; strict: "
            f"right{f', {LAYOUTS[asked]}' if asked else ''}; {summary['n']} problems), "
            f"lenient {summary['accuracy_lenient']:.1%}, length {summary['mean_length']:.0f} "
            f"tokens, {summary['reflection_rate']:.2f} reflections a completion"
        )


# Passes the policy's evaluation to a function; True asks for the policy as it began.
Measure = Callable[[Callable[[Evaluation], None], bool], None]


@dataclass(frozen=True)
class RunEvaluator:
    """Evaluates a run's policy, writes the result into its directory and notes it.

    `measure` may share the work among processes, and calls the function on the one that writes.
    """

    recipe: Recipe
    run: RunDirectory
    note: Callable[[str], None]
    measure: Measure

    def at_end(self, when: Literal["before", "after"]) -> None:
        """Evaluate for eval.json, before or after training."""

        def keep(evaluation: Evaluation) -> None:
            self.run.write_lines(f"eval-{when}.jsonl", evaluation.records)
            self.run.write_json("eval.json", {**self.run.evaluation(), when: evaluation.summary})
            asked, least = self.recipe.task.tested, self.recipe.evaluation.at_least
            self.note(f"{when} training, on {asked} problems: {evaluation}")
            accuracy = evaluation.summary["accuracy"]
            if when == "after" and least is not None:
                if accuracy < least:
                    raise RunFailure(
                        f"the accuracy on {asked} problems is {accuracy:.1%} after training; "
                        f"evaluation.at_least is {least:.1%}."
                    )
                self.note(f"passed: evaluation.at_least is {least:.1%}")

        if self.recipe.evaluation.n:
            self.measure(keep, when == "before")

    def after_step(self, step: int) -> dict[str, float]:
        """The step's `eval/...` figures; none where none are due. The last step is `after`'s."""
        settings, figures = self.recipe.evaluation, dict[str, float]()
        last = step == self.recipe.train.max_steps
        if not settings.n or not settings.every or step % settings.every or last:
            return figures
        started = time.perf_counter()

        def keep(evaluation: Evaluation) -> None:
            self.run.write_lines(f"evals/step-{step:06d}.jsonl", evaluation.records)
            asked = self.recipe.task.tested
            self.note(f"after step {step}, on {asked} problems: {evaluation}")
            figures.update(evaluation.scalars())
            figures["time/eval_s"] = time.perf_counter() - started

        self.measure(keep, False)
        return figures


def evaluate_held_out(
    recipe: Recipe,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    samples: int = 1,
) -> Evaluation:
    """The model's answers to the recipe's prompts, drawn alike by every command and engine."""
    settings = SamplingSettings(
        recipe.generation.max_completion_length,
        recipe.evaluation.temperature,
        stop=recipe.generation.stop,
    )
    prompts = ask(problems, recipe, tokenizer)
    seed = rollout_seed(recipe.train.seed, _EVALUATION_STEP)
    return evaluate(engine, problems, prompts, settings, seed, samples)


def evaluate(
    engine: Engine,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    seed: int,
    samples: int = 1,
) -> Evaluation:
    """Draw `samples` completions per problem and check them."""
    groups = engine.generate(prompts, samples, settings, seed)
    rows = [
        (problem, prompt, index, completion)
        for problem, prompt, group in zip(problems, prompts, groups, strict=True)
        for index, completion in enumerate(group)
    ]
    verdicts = check_completions(
        [prompt.text for _, prompt, _, _ in rows],
        [completion.text for _, _, _, completion in rows],
        [problem.columns for problem, _, _, _ in rows],
        prompts[0].layout,
    )
    records = tuple(
        {
            "key": problem.key,
            "sample": index,
            "columns": dict(problem.columns),
            "prompt": prompt.text,
            "completion": completion.text,
            "correct": verdict.strict,
            "correct_lenient": verdict.lenient,
            "well_formed": verdict.well_formed,
            "answer": verdict.answer,
            "tokens": len(completion.token_ids),
            "truncated": completion.truncated,
            "reflections": reflection_count(completion.text),
        }
        for (problem, prompt, index, completion), verdict in zip(rows, verdicts, strict=True)
    )
    layout = {"layout": prompts[0].layout}
    return Evaluation(layout | _summary(records, settings, samples), records)


def by_problem(records: Sequence[Record]) -> list[list[Record]]:
    """The records of each problem together, in order."""
    problems: list[list[Record]] = []
    for record in records:
        if record["sample"] == 0:
            problems.append([])
        problems[-1].append(record)
    return problems


def accuracy_of(problem: Sequence[Record]) -> float:
    """The share of one problem's completions that are right (strict)."""
    return fmean(record["correct"] for record in problem)


def _summary(records: Sequence[Record], settings: SamplingSettings, samples: int) -> dict[str, Any]:
    problems = by_problem(records)
    lengths = sorted(record["tokens"] for record in records)
    # Each percentile is the smallest length that at least so many per cent do not exceed.
    places = {p: max(0, math.ceil(p / 100 * len(lengths)) - 1) for p in (10, 50, 90)}
    summary = {
        "n": len(problems),
        "samples": samples,
        "temperature": settings.temperature,
        **_accuracy(problems, samples),
        "accuracy_lenient": fmean(record["correct_lenient"] for record in records),
        "format_rate": fmean(record["well_formed"] for record in records),
        "mean_length": fmean(lengths),
        **{f"length_p{p}": lengths[place] for p, place in places.items()},
        "reflection_rate": fmean(record["reflections"] for record in records),
        "truncated_rate": fmean(record["truncated"] for record in records),
    }
    if samples > 1:
        powers = powers_up_to(samples)
        right = [[r["correct"] for r in problem] for problem in problems]
        for k in powers:
            summary[f"pass@{k}"] = fmean(pass_at_k(samples, sum(flags), k) for flags in right)
        votes = [
            [task_of(r["columns"]).vote_key(r["answer"]) for r in problem] for problem in problems
        ]
        for k in powers[1:]:
            chosen = [maj_at_k(*both, k) for both in zip(votes, right, strict=True)]
            summary[f"maj@{k}"] = fmean(chosen)
    parts: dict[str, list[Sequence[Record]]] = {}
    for problem in problems:
        columns = problem[0]["columns"]
        name = task_of(columns).difficulty(columns)
        if name is not None:
            parts.setdefault(name, []).append(problem)
    summary["by_difficulty"] = {
        name.strip(): {
            "n": len(part),
            **_accuracy(part, samples),
            "mean_length": fmean(record["tokens"] for record in chain.from_iterable(part)),
        }
        for name, part in sorted(parts.items())
    }
    return summary


def _accuracy(problems: Sequence[Sequence[Record]], samples: int) -> dict[str, Any]:
    """The strict accuracy over problems, with its 95 % interval."""
    shares = [*map(accuracy_of, problems)]
    return {"accuracy": fmean(shares), "ci95": list(clustered_interval(shares, samples))}


@dataclass(frozen=True)
class Comparison:
    """The first model's accuracy less the second's, by problem.

    `ci95` is Student's t over paired differences; `gained` and `lost` are the keys of the problems
    on which the first does better and worse.
    """

    n: int
    difference: float
    ci95: tuple[float, float]
    p: float
    test: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]


def compare(records: Sequence[Record], others: Sequence[Record]) -> Comparison:
    """Compare two models' records of the same problems in the same order. Errors: ValueError.

    With one completion a problem the test is McNemar's (1947) in its exact form: a fair coin for
    every problem that changed.
    """
    from scipy.stats import binomtest, wilcoxon

    ours, theirs = by_problem(records), by_problem(others)
    keys = [problem[0]["key"] for problem in ours]
    if keys != [problem[0]["key"] for problem in theirs]:
        raise ValueError("the two evaluations are of different problems")
    right, others_right = list(map(accuracy_of, ours)), list(map(accuracy_of, theirs))
    differences = [a - b for a, b in zip(right, others_right, strict=True)]
    difference = fmean(differences)
    gained = tuple(key for key, d in zip(keys, differences, strict=True) if d > 0)
    lost = tuple(key for key, d in zip(keys, differences, strict=True) if d < 0)
    p = 1.0
    if all(len(problem) == 1 for problem in (*ours, *theirs)):
        test = "McNemar's exact test"
        if gained or lost:
            p = float(binomtest(len(gained), len(gained) + len(lost)).pvalue)
    else:
        test = "Wilcoxon's signed-rank test"
        if gained or lost:
            p = float(wilcoxon(differences).pvalue)
    interval = (difference, difference)  # one problem has no spread
    if len(keys) > 1:
        found = rise(others_right, right)
        interval = (found.low, found.high)
    return Comparison(len(keys), difference, interval, p, test, gained, lost)
