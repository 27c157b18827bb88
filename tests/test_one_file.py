"""`examples/one_file.py` computes what the package computes."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from aha.grpo.advantages import group_advantages
from aha.grpo.logprobs import LogprobModel
from aha.grpo.update import update
from aha.model.llama import blocks_of
from aha.model.load import load_model
from aha.recipe import load_recipe
from aha.tasks.countdown import fault, make_problem
from aha.tasks.task import split_of
from aha.train.state import update_settings
from aha.types import Completion, Group, Prompt

FILE = Path(__file__).parents[1] / "examples" / "one_file.py"
ONE: dict[str, Any] = runpy.run_path(str(FILE))


def weights() -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = ONE["load_file"](ONE["weights_path"]() / "model.safetensors")
    return loaded


def test_it_is_read_in_one_sitting() -> None:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250
    assert [line for line in lines if "import" in line and "aha" in line] == [
        "from aha.tiny import weights_path  # the only thing from aha: where the model's files are"
    ]


def test_loss_and_gradient_are_the_packages(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    problems = [([3, 7, 12], 24), ([13, 3, 5], 15)]
    rows = [problem for problem in problems for _ in range(4)]
    prompts = torch.tensor([tokenizer.encode(ONE["prompt_of"](problem)) for problem in rows])
    mine = weights()
    completions = ONE["roll_out"](mine, prompts)
    rewards_PG = torch.tensor([[1.1, 0.1, 0.1, 0.0], [0.1, 1.1, 1.1, 0.1]])
    advantages_PG = ONE["advantages_of"](rewards_PG)
    torch.testing.assert_close(advantages_PG, group_advantages(rewards_PG, "group"))

    for weight in mine.values():
        weight.requires_grad_()
    loss = ONE["loss_of"](mine, prompts, completions, advantages_PG.flatten())
    loss.backward()

    recipe = load_recipe("countdown-tiny", ["optimizer.max_grad_norm=1e9"])
    model = load_model(recipe.model)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    groups = []
    for p, (numbers, target) in enumerate(problems):
        text = ONE["prompt_of"]((numbers, target))
        prompt = Prompt(text, "<think>", tuple(tokenizer.encode(text)), layout="think")
        group = tuple(
            Completion("", tuple(ids), (0.0,) * len(ids), "stop")
            for ids in completions[4 * p : 4 * p + 4]
        )
        known = Group(make_problem(numbers, target), prompt, group)
        groups.append(replace(known, advantages=tuple(advantages_PG[p].tolist())))
    policy = LogprobModel(model, blocks_of(model))
    # With a rate of 1 the step is the gradient.
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    stats = update(policy, None, optimizer, groups, update_settings(recipe, 4096))
    assert stats.loss == pytest.approx(loss.item(), abs=1e-5)
    for name, value in model.named_parameters():
        gradient = mine[name].grad
        assert gradient is not None
        torch.testing.assert_close(before[name] - value.detach(), gradient, rtol=1e-3, atol=2e-5)


def test_its_problems_and_rewards_are_the_packages() -> None:
    chance = ONE["random"].Random(0)
    for held_out in (True, False):
        for _ in range(50):
            numbers, target = ONE["make_problem"](chance, held_out)
            known = make_problem(numbers, target)
            assert (split_of(known.key) == "test") == held_out
    for answer, right in [
        ("13 + ( 5 - 3 )", True), ("( 13 - 3 ) + 5", True), ("13 + 5 - 3", True),
        ("3 * 5", False), ("13 / 0 + 5", False), ("13 + ( 5 - 3", False), ("13 + + 5", False),
        ("5 + 3 - 13", False), ("( 13 - 3 ) + 5 )", False), ("", False), ("13 ** 3", False),
    ]:  # fmt: skip
        text = f"so </think> <answer> {answer} </answer>"
        assert ONE["reward_of"](([3, 13, 5], 15), text) == (1.1 if right else 0.1)
        assert (fault(answer, 15, [3, 13, 5])[1] == "") == right
    assert ONE["reward_of"](([3, 13, 5], 15), "no tags") == 0.0
