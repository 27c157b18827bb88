"""The training loop: problems -> rollouts -> rewards -> advantages -> update -> record.

A step's problems and completions are functions of (seed, step), so a resumed run continues as if
it had never stopped.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from aha.evaluate.evaluation import Evaluation, RunEvaluator, evaluate_held_out
from aha.grpo.advantages import estimated_advantages, group_advantages
from aha.grpo.update import update
from aha.observe.record import FinishedStep
from aha.observe.reporter import StepReporter
from aha.recipe import Recipe
from aha.rewards.score import WeightedReward, score
from aha.rollout.base import rollout_seed
from aha.runs import RunDirectory
from aha.tasks.prompts import ask
from aha.train.checkpoint import Saver
from aha.train.length import LengthState, kept, missed, penalised
from aha.train.schedule import EntropyBonus, learning_rate_at
from aha.train.state import TrainingState, sampling_settings, update_settings
from aha.train.stop import StopRequest
from aha.types import Group, Problem, Stopped


def train(
    state: TrainingState, run: RunDirectory, reporter: StepReporter, stop: StopRequest
) -> None:
    """Train to `max_steps`, evaluate before and after, and record every step in `run`.

    Errors: Stopped after a checkpoint when `stop` says so; RunFailure when the run cannot go on.
    """
    recipe = state.recipe
    if state.done:
        state.bonus = EntropyBonus.after(run.metrics(), recipe.grpo)
        state.length = LengthState.after(run.metrics(), recipe)
        state.stream.replay(run.metrics())

    def measure(keep: Callable[[Evaluation], None], untrained: bool) -> None:
        samples = recipe.evaluation.samples
        keep(evaluate_held_out(recipe, state.engine, state.tokenizer, state.held_out, samples))

    evaluator = RunEvaluator(recipe, run, reporter.note, measure)
    saver = Saver(
        run, recipe.train, state.model, state.tokenizer, state.optimizer, state.moving_reference
    )
    slowest_s = 0.0
    for note in state.notes:
        reporter.note(note)
    if "before" not in run.evaluation():
        evaluator.at_end("before")
    for step in range(state.done + 1, recipe.train.max_steps + 1):
        finished = train_step(state, step)
        reporter.report(finished, evaluator.after_step(step))
        slowest_s = max(slowest_s, finished.times["time/step_s"])
        last = step == recipe.train.max_steps
        try:
            # Time for two steps, because the checkpoint must still be written.
            stop.check(0.0 if last else 2 * slowest_s)
        except Stopped:
            saver.save(step)
            saver.finish()
            raise
        if step % recipe.train.save_steps == 0 or last:
            saver.save(step)
    saver.finish()
    evaluator.at_end("after")


def train_step(state: TrainingState, step: int) -> FinishedStep:
    """One step: roll out, score, update."""
    recipe, times = state.recipe, dict[str, float]()
    started = time.perf_counter()
    learning_rate = learning_rate_at(step, recipe.train.max_steps, recipe.optimizer)
    for parameters in state.optimizer.param_groups:
        parameters["lr"] = learning_rate
    drawn, groups = collect(state, step, times)
    with _timed(times, "time/train_s"):
        bonus = state.bonus.applied(recipe.grpo)
        settings = update_settings(recipe, state.tokens_per_microbatch, bonus)
        stats = update(state.policy, state.reference, state.optimizer, groups, settings)
        state.tokens_per_microbatch = stats.tokens_per_microbatch
        state.bonus = state.bonus.next(stats.entropy, recipe.grpo)
        state.reset_reference(step)
        stats = replace(stats, nonfinite_rows=_places(drawn, groups, stats.nonfinite_rows))
    times["time/step_s"] = time.perf_counter() - started
    coef = state.bonus.coef if settings.every_row else None
    controls = state.stream.next(step, drawn)
    if recipe.length.on:
        state.length = state.length.next(step, drawn, recipe)
        controls |= state.length.record
    if recipe.length.wish is not None:
        controls["length/missed"] = missed(drawn)
    return FinishedStep(
        step, state.stream.epoch(step), learning_rate, drawn, stats, times, coef, controls
    )


def collect(
    state: TrainingState, step: int, times: dict[str, float]
) -> tuple[list[Group], list[Group]]:
    """The step's scored groups: all that were drawn, and those to train on.

    With dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) rounds of prompts are drawn until
    `prompts_per_step` groups have signal or the rounds are used up. Groups that are not trained on
    get advantages of 0. Without dynamic sampling there is one round, and all its groups are used.
    """
    grpo, drawn = state.recipe.grpo, list[Group]()
    for round_ in range(grpo.max_sampling_rounds if grpo.dynamic_sampling else 1):
        with _timed(times, "time/rollout_s"):
            groups = roll_out(state, state.stream.at(step, round_), step, round_)
        with _timed(times, "time/reward_s"):
            scored = score_groups(state.rewards, groups)
            drawn += penalised(scored, state.length, state.recipe.length)
        signal = [group.has_signal for group in drawn]
        if sum(signal) >= grpo.prompts_per_step:
            break
    # Groups with signal come first, in the order drawn; others fill the batch if needed.
    order = sorted(range(len(drawn)), key=lambda index: not signal[index])
    chosen = sorted(order[: grpo.prompts_per_step])
    trained = with_advantages([drawn[index] for index in chosen], state.recipe)
    for index, group in enumerate(drawn):
        drawn[index] = replace(group, advantages=(0.0,) * len(group.completions))
    for index, group in zip(chosen, trained, strict=True):
        drawn[index] = group
    return drawn, trained


def _places(
    drawn: Sequence[Group], trained: Sequence[Group], rows: Sequence[int]
) -> tuple[int, ...]:
    """Places in the trained groups, as places among all drawn groups."""
    size = len(drawn[0].completions)
    first = [drawn.index(group) * size for group in trained] if rows else []
    return tuple(first[row // size] + row % size for row in rows)


def roll_out(
    state: TrainingState, problems: Sequence[Problem], step: int, round_: int = 0
) -> list[Group]:
    """A group of completions for each problem, without scores."""
    recipe = state.recipe
    wishes = None
    if recipe.length.wish is not None:
        chance = random.Random(f"{recipe.train.seed}:{step}:{round_}:wish")
        wishes = [chance.randint(*recipe.length.wish) for _ in problems]
    prompts = ask(problems, recipe, state.tokenizer, wishes)
    limits = [math.ceil(state.length.limit_of(problem)) for problem in problems]
    completions = state.engine.generate(
        prompts,
        recipe.generation.num_generations,
        replace(sampling_settings(recipe), max_completion_length=max(limits)),
        rollout_seed(recipe.train.seed, step, round_),
        limits,
    )
    return [
        Group(problem, prompt, group)
        for problem, prompt, group in zip(problems, prompts, completions, strict=True)
    ]


def score_groups(rewards: Sequence[WeightedReward], groups: Sequence[Group]) -> list[Group]:
    """The groups with a score for every completion. Rewards see the whole step at once."""
    rows = [(g.problem, g.prompt, completion) for g in groups for completion in g.completions]
    problems, prompts, completions = zip(*rows, strict=True)
    scores = iter(score(rewards, problems, prompts, completions))
    return [replace(g, scores=tuple(next(scores) for _ in g.completions)) for g in groups]


def with_advantages(groups: Sequence[Group], recipe: Recipe) -> list[Group]:
    """The groups with an advantage for every completion."""
    rewards_PG = torch.tensor([[s.reward for s in group.scores] for group in groups])
    rewards_PG = kept(groups, rewards_PG, recipe.length)
    estimator = recipe.grpo.advantage_estimator
    if estimator == "grpo":
        advantages_PG = group_advantages(rewards_PG, recipe.grpo.scale_rewards)
    else:
        count = len(recipe.rewards)
        raw_PGK = torch.tensor(
            [
                [
                    [math.nan if x is None else x for x in list(score.raw.values())[:count]]
                    for score in group.scores
                ]
                for group in groups
            ]
        )
        raw_PGK = raw_PGK.masked_fill(rewards_PG.isnan()[:, :, None], math.nan)
        weights_K = torch.tensor([reward.weight for reward in recipe.rewards])
        advantages_PG = estimated_advantages(rewards_PG, raw_PGK, weights_K, estimator)
    return [
        replace(group, advantages=tuple(advantages))
        for group, advantages in zip(groups, advantages_PG.tolist(), strict=True)
    ]


@contextmanager
def _timed(times: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    times[name] = times.get(name, 0.0) + time.perf_counter() - started
