"""What a run on TRL is made of: problems in the native order, memory, precision, adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedModel

import aha.trl.materials as materials
from aha.model.kernels.decode import Widths
from aha.model.load import product_dtype
from aha.recipe import Recipe, load_recipe
from aha.tasks import load_problems
from aha.train.schedule import ProblemStream
from aha.trl.materials import StepSampler, load_data, load_policy, rows_that_fit
from aha.types import UserError

Make = Callable[..., Recipe]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_hubs_kernels_are_asked_for(
    wanted: bool, small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(PreTrainedModel, "set_use_kernels", lambda self, on, *_: asked.append(on))
    recipe, arguments = small("trl", f"trl.use_kernels={wanted}".lower()), SimpleNamespace()
    load_policy(recipe, arguments)
    # transformers itself says so of every model that it loads.
    assert asked == [False, True][: 1 + wanted]
    monkeypatch.setattr(materials, "asked_for_fsdp", lambda: True)
    load_policy(recipe, arguments)
    assert arguments.model_init_kwargs["use_kernels"] is wanted


def test_a_reward_at_fault_ends_the_start(small: Make, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def short(completions):\n    return []\n")
    with pytest.raises(UserError, match="reward 'short' returned 0 values for 1"):
        load_data(small("trl", f"rewards=[{{name: '{path}:short'}}]"))


@pytest.mark.parametrize("repeats", [1, 6])
def test_problems_come_in_the_native_order(repeats: int, small: Make) -> None:
    # 16 steps of 3 prompts go more than once through 40 problems.
    recipe = small("trl", "train.max_steps=16")
    problems = load_problems(recipe.task, "train", recipe.task.num_train).problems
    native = ProblemStream(problems, 3, recipe.train.seed)
    materials = load_data(recipe)
    sampler = StepSampler(materials, repeats)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 16 * repeats * 3 * 4
    step = 3 * 4 * repeats
    for number in range(16):
        rows = [problems[place] for place in drawn[number * step : (number + 1) * step]]
        expected = [problem for problem in native.at(number + 1) for _ in range(4)]
        assert rows == expected * repeats


def test_the_longest_prompt_is_of_what_the_run_draws(small: Make) -> None:
    few = load_data(small("trl", "train.max_steps=1"))
    every = load_data(small("trl", "train.max_steps=50"))
    # "Make T from A B C . <think>": one token per number and word.
    assert few.longest_prompt == every.longest_prompt == 8


def test_a_budget_of_tokens_is_rows_of_full_length(small: Make) -> None:
    recipe = small("trl", "train.tokens_per_microbatch=290", "generation.max_completion_length=20")
    assert rows_that_fit(recipe, longest_prompt=8, neighbours=1) == 290 // 28
    tiny = small("trl", "train.tokens_per_microbatch=5")
    assert rows_that_fit(tiny, longest_prompt=8, neighbours=1) == 1


def test_without_a_budget_memory_decides(small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import aha.trl.materials as materials

    asked = []

    def budget(widths: Widths, per_token: float, free: float, grown: int, device: str) -> int:
        asked.append((free, grown))
        return 290

    monkeypatch.setattr(materials, "token_budget", budget)
    monkeypatch.setattr(materials, "free_memory", lambda device: 2**30)
    for neighbours, changes in [(1, ()), (4, ()), (1, ("grpo.beta=0.1",)), (1, ("lora={}",))]:
        assert rows_that_fit(small("trl", *changes), 8, neighbours) == 290 // 28
    (alone, grown), (beside, _), (with_reference, _), (adapted, nothing) = asked
    weights = grown / 3  # gradients and two moments
    assert alone == 2**30 - weights
    assert beside == 2**28 - weights
    assert with_reference == 2**30 - 2 * weights
    assert (adapted, nothing) == (alone, 0)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], False),
        (["model.autocast=bfloat16"], True),
        (["model.dtype=bfloat16"], True),
        (["model.autocast=none"], False),
    ],
)
def test_precision_on_a_cpu(overrides: list[str], expected: bool) -> None:
    recipe = load_recipe("countdown-tiny", ["engine=trl", "model.device=cpu", *overrides])
    assert (product_dtype(recipe) == torch.bfloat16) is expected


def test_an_adapter_is_no_reference(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    recipe = load_recipe(
        "countdown-tiny", ["engine=trl", "grpo.beta=0.1", f"model.name={tmp_path}"]
    )
    with pytest.raises(UserError, match=r"grpo\.beta is 0\.1 and model\.name .* is an adapter"):
        load_data(recipe)
