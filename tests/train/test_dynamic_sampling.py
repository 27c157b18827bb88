"""Drawing prompts until enough groups have signal, with an engine that recites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from aha.observe.record import group_metrics
from aha.recipe import Recipe, load_recipe
from aha.rollout.base import rollout_seed
from aha.train.loop import collect
from aha.train.state import TrainingState, prepare
from aha.types import Prompt
from scripted import ScriptedEngine


def recipe(**grpo: Any) -> Recipe:
    changes = {"prompts_per_step": 6, **grpo}
    return load_recipe(
        "countdown-tiny",
        [f"grpo.{key}={value}" for key, value in changes.items()]
        + ["generation.num_generations=2", "evaluation.n=0", "task.num_train=200"],
    )


def trainer(given: Recipe) -> TrainingState:
    """Half of the prompts get a well-formed and an empty answer, the others two alike."""
    built = prepare(given, None)
    encode: Any = built.tokenizer.encode

    def script(prompt: Prompt, index: int) -> str:
        signal = prompt.token_ids[1] % 2 == 0
        return " 1 </think> <answer> 1 </answer>" if signal and index == 0 else " 1"

    return replace(built, engine=ScriptedEngine(script, encode))  # type: ignore[arg-type]


def test_without_it_a_step_is_one_round() -> None:
    built = trainer(recipe())
    drawn, groups = collect(built, 1, {})
    assert drawn == groups
    assert 0 < sum(g.has_signal for g in groups) < 6


def test_rounds_are_drawn_until_enough_groups_have_signal() -> None:
    built = trainer(recipe(dynamic_sampling=True, max_sampling_rounds=8))
    drawn, groups = collect(built, 1, {})
    assert len(drawn) > 6
    assert len(groups) == 6
    assert all(g.has_signal for g in groups)
    # No problem twice, and what was drawn in vain has no advantage.
    assert len({g.problem.key for g in drawn}) == len(drawn)
    chosen = {g.problem.key for g in groups}
    rest = [g for g in drawn if g.problem.key not in chosen]
    assert rest
    assert not any(any(g.advantages) for g in rest)
    # Some of the rest have signal, and are not needed.
    flat = [g for g in drawn if g.problem.key not in chosen and g.prompt.token_ids[1] % 2]
    assert 0 < len(flat) < len(rest)
    share = group_metrics(drawn)["frac_reward_zero_std"]
    assert share == pytest.approx(len(flat) / len(drawn))
    lengths = [len(c.token_ids) for g in drawn for c in g.completions]
    lost = sum(len(c.token_ids) for g in rest for c in g.completions)
    assert group_metrics(drawn)["tokens_wasted"] == pytest.approx(lost / sum(lengths))
    assert group_metrics(drawn)["groups"] == len(drawn)


def test_the_cap_ends_it_and_the_step_keeps_its_size() -> None:
    capped = recipe(dynamic_sampling=True, max_sampling_rounds=2)
    built = trainer(capped)
    encode: Any = built.tokenizer.encode
    built = replace(built, engine=ScriptedEngine(lambda prompt, index: " 1", encode))  # type: ignore[arg-type]
    drawn, groups = collect(built, 1, {})
    assert (len(drawn), len(groups)) == (12, 6)


def test_steps_and_rounds_never_share_problems_or_seeds() -> None:
    built = trainer(recipe(dynamic_sampling=True, max_sampling_rounds=3))
    keys = [p.key for s in range(1, 6) for r in range(3) for p in built.stream.at(s, r)]
    assert len(set(keys)) == len(keys) == 90
    assert built.stream.epoch(10) == pytest.approx(180 / 200)
    seeds = {rollout_seed(seed, s, r) for seed in (0, 1) for s in range(50) for r in range(4)}
    assert len(seeds) == 2 * 50 * 4
