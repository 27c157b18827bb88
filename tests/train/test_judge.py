"""TRL 1.16 as judge: same batch, same advantages, loss and gradients, to 1e-5 relative."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytest.importorskip("trl.trainer", reason="trl is not installed; it needs Python 3.11")

from aha.grpo.advantages import group_advantages
from aha.grpo.logprobs import LogprobModel
from aha.grpo.losses import LossSettings, LossType
from aha.grpo.update import UpdateSettings, accumulate_gradients, prepare
from aha.model.llama import blocks_of
from aha.types import Completion, Group, Problem, Prompt
from trl import GRPOConfig, GRPOTrainer

P, G, LIMIT = 3, 4, 24
TEMPERATURE = 0.9
# The second group has no difference, so both sides must give it no advantage.
REWARDS_PG = [[0.0, 1.0, 0.1, 1.1], [0.5, 0.5, 0.5, 0.5], [2.0, -0.5, 0.0, 0.0]]


def make_groups(advantages_PG: list[list[float]]) -> list[Group]:
    generator = torch.Generator().manual_seed(4)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(3, 220, (length,), generator=generator).tolist())

    groups = []
    for p in range(P):
        prompt = Prompt("p", "", ids(3, 9))
        completions = []
        for g in range(G):
            # One completion is cut off at the limit; the others end with the end token.
            tokens = (7,) * LIMIT if (p, g) == (0, 2) else (*ids(4, LIMIT - 1), 1)
            reason: Any = "length" if (p, g) == (0, 2) else "stop"
            completions.append(Completion("", tokens, (0.0,) * len(tokens), reason))
        problem = Problem("countdown", str(p), {})
        groups.append(Group(problem, prompt, tuple(completions), (), tuple(advantages_PG[p])))
    return groups


def trl_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    groups: list[Group],
    folder: Path,
    **changes: Any,
) -> GRPOTrainer:
    def recite(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        rows = [(g.prompt.token_ids, c.token_ids) for g in groups for c in g.completions]
        return {
            "prompt_ids": [list(prompt) for prompt, _ in rows],
            "completion_ids": [list(completion) for _, completion in rows],
            "logprobs": [[0.0] * len(completion) for _, completion in rows],
        }

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [value for group in REWARDS_PG for value in group]

    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=P * G,
        num_generations=G,
        max_completion_length=LIMIT,
        temperature=TEMPERATURE,
        gradient_checkpointing=False,
        epsilon=0.2,
        epsilon_high=0.28,
        **changes,
    )
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": "p"}] * P),
        processing_class=tokenizer,
        rollout_func=recite,
    )


def trl_side(trainer: GRPOTrainer, old_shift: torch.Tensor | None) -> tuple[Any, Any, Any]:
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions([{"prompt": "p"}] * (P * G))
    if old_shift is not None:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        with torch.no_grad():
            logps = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width)[0]
        inputs["old_per_token_logps"] = logps + old_shift[:, :width]
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return inputs["advantages"], loss.detach(), gradients(trainer.model)


def our_side(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    groups: list[Group],
    loss: LossSettings,
    old_shift: torch.Tensor | None,
    mask_truncated: bool,
) -> tuple[float, dict[str, torch.Tensor]]:
    # A small budget, so that several microbatches must add up to TRL's one.
    settings = UpdateSettings(loss, TEMPERATURE, 1, 1.0, 90, mask_truncated)
    policy = LogprobModel(model, blocks_of(model))
    judge = None if reference is None else LogprobModel(reference, blocks_of(reference))
    model.train()
    parts = prepare(policy, judge, groups, settings)
    assert len(parts) > 1
    old = {}
    if old_shift is not None:
        for part in parts:
            logprobs_N = policy.logprobs(part.batch, TEMPERATURE)
            rows = part.batch.rows
            split = logprobs_N.split([len(row.completion_ids) for row in rows])
            for row, logprobs in zip(rows, split, strict=True):
                old[row.index] = logprobs + old_shift[row.index, : len(logprobs)]
    result = accumulate_gradients(policy, parts, old, settings)
    policy.gather_gradients()
    return result.loss, gradients(model)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        error = (gradient - theirs[name]).norm() / theirs[name].norm()
        assert error < 1e-5, f"{name}: {error}"


@pytest.mark.parametrize("clipping", [False, True], ids=["on-policy", "clipping"])
@pytest.mark.parametrize(
    ("beta", "corrected"),
    [(0.0, True), (0.05, True), (0.05, False)],
    ids=["no-kl", "kl", "plain-kl"],
)
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_same_loss_and_gradients(
    loss_type: LossType,
    beta: float,
    corrected: bool,
    clipping: bool,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    advantages = group_advantages(torch.tensor(REWARDS_PG), "group")
    groups = make_groups(advantages.tolist())
    ours, theirs, reference = random_model(0), random_model(0), random_model(1)
    # TRL loads the reference from where the model says that it came from.
    reference.save_pretrained(tmp_path / "reference")
    theirs.config._name_or_path = str(tmp_path / "reference")
    trainer = trl_trainer(
        theirs, tokenizer, groups, tmp_path,
        loss_type=loss_type, beta=beta, use_bias_correction_kl=corrected,
    )  # fmt: skip
    shift = None
    if clipping:
        shift = 0.4 * torch.randn(P * G, LIMIT, generator=torch.Generator().manual_seed(6))
    trl_advantages, trl_loss, trl_gradients = trl_side(trainer, shift)
    assert torch.allclose(advantages.flatten(), trl_advantages, rtol=1e-5, atol=1e-7)
    loss = LossSettings(loss_type, 0.2, 0.28, beta, LIMIT, corrected)
    our_loss, our_gradients = our_side(
        ours, reference if beta else None, groups, loss, shift, mask_truncated=False
    )
    assert our_loss == pytest.approx(trl_loss.item(), rel=1e-5, abs=1e-7)
    assert_same(our_gradients, trl_gradients)


@pytest.mark.parametrize(
    ("changes", "ours"),
    [
        ({"loss_type": "grpo", "importance_sampling_level": "sequence"}, {"sequence": True}),
        ({"loss_type": "dapo", "importance_sampling_level": "sequence"}, {"sequence": True}),
        ({"loss_type": "cispo"}, {}),
    ],
    ids=["gspo", "gspo-dapo", "cispo"],
)
@pytest.mark.parametrize("old", [False, True])
def test_same_loss_and_gradients_of_other_ratios(
    old: bool,
    changes: dict[str, Any],
    ours: dict[str, Any],
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    groups = make_groups(group_advantages(torch.tensor(REWARDS_PG), "group").tolist())
    trainer = trl_trainer(random_model(0), tokenizer, groups, tmp_path, beta=0.0, **changes)
    shift = None
    if old:
        shift = 0.4 * torch.randn(P * G, LIMIT, generator=torch.Generator().manual_seed(6))
    if changes["loss_type"] == "cispo":
        trainer.epsilon_high = 1.2
    _, trl_loss, trl_gradients = trl_side(trainer, shift)
    high = 1.2 if changes["loss_type"] == "cispo" else 0.28
    loss = LossSettings(changes["loss_type"], 0.2, high, 0.0, LIMIT, **ours)
    our_loss, our_gradients = our_side(
        random_model(0), None, groups, loss, shift, mask_truncated=False
    )
    assert our_loss == pytest.approx(trl_loss.item(), rel=1e-5, abs=1e-7)
    assert_same(our_gradients, trl_gradients)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_same_advantages(
    scale: Any,
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    groups = make_groups([[0.0] * G] * P)
    trainer = trl_trainer(
        random_model(0), tokenizer, groups, tmp_path, beta=0.0, scale_rewards=scale
    )
    theirs, _, _ = trl_side(trainer, None)
    ours = group_advantages(torch.tensor(REWARDS_PG), scale).flatten()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_same_when_truncated_completions_are_masked(
    random_model: Callable[..., PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    groups = make_groups(group_advantages(torch.tensor(REWARDS_PG), "group").tolist())
    trainer = trl_trainer(
        random_model(0), tokenizer, groups, tmp_path,
        loss_type="grpo", beta=0.0, mask_truncated_completions=True,
    )  # fmt: skip
    _, trl_loss, trl_gradients = trl_side(trainer, None)
    loss = LossSettings("grpo", 0.2, 0.28, 0.0, LIMIT)
    our_loss, ours = our_side(random_model(0), None, groups, loss, None, mask_truncated=True)
    assert our_loss == pytest.approx(trl_loss.item(), rel=1e-5, abs=1e-7)
    assert_same(ours, trl_gradients)
