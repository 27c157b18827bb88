"""The training loop: problems -> rollouts -> rewards -> advantages -> update -> record.

Everything a step draws (problems, completions) is a function of (seed, step), so a resumed
run goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from aha.evaluate.evaluate import Evaluation, evaluate
from aha.grpo.advantages import group_advantages
from aha.grpo.update import UpdateStats, update
from aha.observe.alerts import Watch
from aha.observe.machine import Meter
from aha.observe.observer import Observer
from aha.observe.record import group_metrics
from aha.recipe import Recipe
from aha.rewards.score import WeightedReward, score
from aha.rollout.base import Engine, SamplingSettings
from aha.runs import RunDirectory
from aha.tasks.prompts import ask
from aha.train.checkpoint import Progress
from aha.train.saving import Saver
from aha.train.schedule import learning_rate_at
from aha.train.setup import Trainer, sampling_settings, update_settings
from aha.train.stop import StopRequest
from aha.types import Group, Problem, RunFailure, Stopped

# Evaluations draw from a stream of their own, never from one of a training step.
_EVALUATION_STEP = 0


def train(
    trainer: Trainer, run: RunDirectory, observers: Sequence[Observer], stop: StopRequest
) -> None:
    """Train to `max_steps`, evaluating before and after; every step is recorded in `run`.

    Errors: Stopped after a checkpoint when `stop` says so; RunFailure when the run cannot go on.
    """
    recipe = trainer.recipe
    watch, meter = Watch(recipe.logging, run.metrics()), Meter()
    saving = recipe.train
    saver = Saver(run.checkpoints, saving.save_total_limit, saving.save_in_background)
    skipped, slowest_s = 0, 0.0
    for note in trainer.notes:
        tell(observers, note)
    if "before" not in run.evaluation():
        _evaluate(trainer, run, observers, "before")
    for step in range(trainer.first_step, recipe.train.max_steps + 1):
        groups, record = train_step(trainer, step)
        record |= meter.read() | _evaluate_during(trainer, run, observers, step)
        run.append_metrics(record)
        for observer in observers:
            observer.on_step(record, groups)
        alerts = watch.check(record)
        run.append_alerts(map(asdict, alerts))
        for alert in alerts:
            tell(observers, alert.message)
        skipped = count_skipped(record, skipped, recipe, observers)
        slowest_s = max(slowest_s, record["time/step_s"])
        last = step == recipe.train.max_steps
        try:
            # Twice the slowest step: the checkpoint must still be written.
            stop.check(0.0 if last else 2 * slowest_s)
        except Stopped:
            _save(trainer, run, saver, step)
            saver.finish()
            raise
        if step % recipe.train.save_steps == 0 or last:
            _save(trainer, run, saver, step)
    saver.finish()
    _evaluate(trainer, run, observers, "after")


def _save(trainer: Trainer, run: RunDirectory, saver: Saver, step: int) -> None:
    progress = Progress(step, run.record_bytes())
    saver.save(progress, trainer.model, trainer.tokenizer, trainer.optimizer)


def count_skipped(
    record: dict[str, Any], before: int, recipe: Recipe, observers: Sequence[Observer]
) -> int:
    """Skipped steps in a row. Errors: RunFailure when there are too many."""
    if not record["skipped"]:
        return 0
    count = before + 1
    tell(
        observers,
        f"warning: step {record['step']} had no finite loss and gradient and was skipped; "
        f"completions to blame: {record['sick_rows'] or 'none in particular'} (see samples).",
    )
    if count >= recipe.train.max_skipped_steps:
        raise RunFailure(
            f"{count} steps in a row had no finite loss and gradient. Go on from a checkpoint with "
            "a lower optimizer.learning_rate or optimizer.max_grad_norm, model.dtype=float32 and "
            "model.autocast=none; and look at the rewards for infinite values."
        )
    return count


def tell(observers: Sequence[Observer], message: str) -> None:
    """Say a sentence to all who watch."""
    for observer in observers:
        observer.note(message)


def train_step(trainer: Trainer, step: int) -> tuple[list[Group], dict[str, Any]]:
    """One step: its groups, and its record for metrics.jsonl."""
    recipe, times = trainer.recipe, dict[str, float]()
    started = time.perf_counter()
    learning_rate = learning_rate_at(step, recipe.train.max_steps, recipe.optimizer)
    for parameters in trainer.optimizer.param_groups:
        parameters["lr"] = learning_rate
    drawn, groups = collect(trainer, step, times)
    with _timed(times, "time/train_s"):
        settings = update_settings(recipe, trainer.budget.tokens)
        stats = update(trainer.policy, trainer.reference, trainer.optimizer, groups, settings)
        trainer.budget.tokens = stats.tokens_per_microbatch
        stats = replace(stats, nonfinite_rows=_places(drawn, groups, stats.nonfinite_rows))
    times["time/step_s"] = time.perf_counter() - started
    epoch = trainer.stream.epoch(step)
    with _timed(times, "time/record_s"):
        metrics = group_metrics(drawn)
    return drawn, step_record(step, epoch, learning_rate, metrics, stats, times)


def collect(
    trainer: Trainer, step: int, times: dict[str, float]
) -> tuple[list[Group], list[Group]]:
    """The step's scored groups: all that were drawn, and those to train on.

    With dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) rounds of prompts are drawn until
    `prompts_per_step` groups have signal or the rounds are used up; groups drawn beyond that have
    no advantages. Without it, one round and all its groups.
    """
    grpo, drawn = trainer.recipe.grpo, list[Group]()
    for round_ in range(grpo.max_sampling_rounds if grpo.dynamic_sampling else 1):
        with _timed(times, "time/rollout_s"):
            groups = roll_out(trainer, trainer.stream.at(step, round_), step, round_)
        with _timed(times, "time/reward_s"):
            drawn += score_groups(trainer.rewards, groups)
        signal = [group.has_signal for group in drawn]
        if sum(signal) >= grpo.prompts_per_step:
            break
    # First those with signal, in the order drawn; the rest fill up what is missing.
    order = sorted(range(len(drawn)), key=lambda index: not signal[index])
    chosen = sorted(order[: grpo.prompts_per_step])
    trained = with_advantages([drawn[index] for index in chosen], trainer.recipe)
    for index, group in enumerate(drawn):
        drawn[index] = replace(group, advantages=(0.0,) * len(group.completions))
    for index, group in zip(chosen, trained, strict=True):
        drawn[index] = group
    return drawn, trained


def _places(
    drawn: Sequence[Group], trained: Sequence[Group], rows: Sequence[int]
) -> tuple[int, ...]:
    """Rows of the groups that were trained on, counted among all that were drawn."""
    size = len(drawn[0].completions)
    first = [drawn.index(group) * size for group in trained] if rows else []
    return tuple(first[row // size] + row % size for row in rows)


def roll_out(
    trainer: Trainer, problems: Sequence[Problem], step: int, round_: int = 0
) -> list[Group]:
    """A group of completions for each problem, not scored yet."""
    recipe = trainer.recipe
    prompts = ask(problems, recipe, trainer.tokenizer)
    completions = trainer.engine.generate(
        prompts,
        recipe.generation.num_generations,
        sampling_settings(recipe),
        rollout_seed(recipe.train.seed, step, round_),
    )
    return [
        Group(problem, prompt, group)
        for problem, prompt, group in zip(problems, prompts, completions, strict=True)
    ]


def score_groups(rewards: Sequence[WeightedReward], groups: Sequence[Group]) -> list[Group]:
    """The groups with a score for every completion; rewards see the whole step at once."""
    rows = [(g.problem, g.prompt, completion) for g in groups for completion in g.completions]
    problems, prompts, completions = zip(*rows, strict=True)
    scores = iter(score(rewards, problems, prompts, completions))
    return [replace(g, scores=tuple(next(scores) for _ in g.completions)) for g in groups]


def with_advantages(groups: Sequence[Group], recipe: Recipe) -> list[Group]:
    """The groups with an advantage for every completion."""
    rewards_PG = torch.tensor([[s.reward for s in group.scores] for group in groups])
    advantages_PG = group_advantages(rewards_PG, recipe.grpo.scale_rewards).tolist()
    return [
        replace(group, advantages=tuple(advantages))
        for group, advantages in zip(groups, advantages_PG, strict=True)
    ]


def rollout_seed(seed: int, step: int, round_: int = 0) -> int:
    """The seed of one round's random streams, a function of (seed, step < 2^28, round < 16)."""
    return (seed << 32) | (round_ << 28) | step


def evaluate_held_out(
    recipe: Recipe,
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    samples: int = 1,
) -> Evaluation:
    """The model's answers, drawn the same whenever and by whatever command it is evaluated."""
    settings = SamplingSettings(
        recipe.generation.max_completion_length,
        recipe.evaluation.temperature,
        stop=recipe.generation.stop,
    )
    prompts = ask(problems, recipe, tokenizer)
    seed = rollout_seed(recipe.train.seed, _EVALUATION_STEP)
    return evaluate(engine, problems, prompts, settings, seed, samples)


def _evaluate(
    trainer: Trainer, run: RunDirectory, observers: Sequence[Observer], when: str
) -> None:
    if not trainer.held_out:
        return
    evaluation = evaluate_held_out(
        trainer.recipe, trainer.engine, trainer.tokenizer, trainer.held_out
    )
    run.write_lines(f"eval-{when}.jsonl", evaluation.records)
    run.write_json("eval.json", {**run.evaluation(), when: evaluation.summary})
    tell(observers, f"{when} training: {evaluation_sentence(evaluation)}")


def _evaluate_during(
    trainer: Trainer, run: RunDirectory, observers: Sequence[Observer], step: int
) -> dict[str, Any]:
    """The step's `eval/...` figures, nothing where none are due; the last step has its own."""
    settings = trainer.recipe.evaluation
    last = step == trainer.recipe.train.max_steps
    if not settings.every or step % settings.every or last or not trainer.held_out:
        return {}
    started = time.perf_counter()
    evaluation = evaluate_held_out(
        trainer.recipe, trainer.engine, trainer.tokenizer, trainer.held_out
    )
    run.write_lines(f"evals/step-{step:06d}.jsonl", evaluation.records)
    tell(observers, f"after step {step}: {evaluation_sentence(evaluation)}")
    return evaluation.scalars() | {"time/eval_s": time.perf_counter() - started}


def evaluation_sentence(evaluation: Evaluation) -> str:
    """An evaluation's outcome for people."""
    summary = evaluation.summary
    low, high = summary["ci95"]
    return (
        f"accuracy {summary['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, strict, "
        f"{summary['n']} held-out problems), length {summary['mean_length']:.0f} tokens, "
        f"{summary['reflection_rate']:.2f} reflections a completion"
    )


def step_record(
    step: int,
    epoch: float,
    learning_rate: float,
    metrics: dict[str, Any],
    stats: UpdateStats,
    times: dict[str, float],
) -> dict[str, Any]:
    """A step's line of metrics.jsonl; `times` are seconds under their names in it."""
    return {
        "step": step,
        "epoch": epoch,
        "loss": _finite(stats.loss),
        "learning_rate": learning_rate,
        "grad_norm": _finite(stats.grad_norm),
        "kl": _finite(stats.kl),
        "entropy": _finite(stats.entropy),
        "clip_ratio": _finite(stats.clip_ratio),
        "logprob_gap": _finite(stats.logprob_gap),
        "skipped": stats.skipped,
        "sick_rows": list(stats.nonfinite_rows),
        "trained_rows": stats.trained_rows,
        "tokens_per_microbatch": stats.tokens_per_microbatch,
        **metrics,
        **times,
        "time/samples_per_s": metrics["samples"] / times["time/step_s"],
        "time/tokens_per_s": metrics["tokens"] / times["time/step_s"],
        **_memory(),
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN: what is not a finite number is none."""
    return value if math.isfinite(value) else None


def _memory() -> dict[str, float]:
    held = {"memory/peak_gb": peak_memory_gb()}
    if torch.cuda.is_available():
        held["machine/gpu_memory_gb"] = torch.cuda.memory_allocated() / 2**30
    return held


def peak_memory_gb() -> float:
    """The most memory held so far: the GPU's when there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ModuleNotFoundError:  # on Windows, where psutil knows the peak
        held: Any = psutil.Process().memory_info()
        return float(held.peak_wset / 2**30)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times[name] = times.get(name, 0.0) + time.perf_counter() - started
