from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from aha.grpo.batches import Row, micro_batches
from aha.grpo.logprobs import LogprobModel
from aha.grpo.losses import LossSettings
from aha.grpo.update import UpdateSettings, UpdateStats, update
from aha.model.free_memory import is_out_of_memory
from aha.model.llama import blocks_of
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.types import Group, Problem, Prompt, RunFailure

ADVANTAGES = [(1.0, -1.0, 0.5, -0.5), (0.0, 0.0, 0.0, 0.0), (-1.5, 0.5, 0.5, 0.5)]


@pytest.fixture
def groups(
    random_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> list[Group]:
    """Rollouts of the untrained model with advantages written by hand."""
    texts = ["Make 24 from 3 7 12 . <think>", "Make 5 from 1 4 . <think>", "Make 9 <think>"]
    prompts = [Prompt(t, "<think>", tuple(tokenizer.encode(t))) for t in texts]
    engine = NativeEngine(random_model(), tokenizer)
    completions = engine.generate(prompts, 4, SamplingSettings(30), seed=1)
    return [
        Group(Problem("countdown", p.text, {}), p, c, (), a)
        for p, c, a in zip(prompts, completions, ADVANTAGES, strict=True)
    ]


def settings(beta: float = 0.0, **changes: Any) -> UpdateSettings:
    loss = LossSettings("dapo", 0.2, 0.28, beta, 30)
    return replace(UpdateSettings(loss, 1.0, 1, 1.0, 10_000, False), **changes)


def run(
    random_model: Callable[..., PreTrainedModel],
    groups: list[Group],
    beta: float = 0.0,
    **changes: Any,
) -> tuple[PreTrainedModel, UpdateStats]:
    model = random_model()
    reference = random_model(1) if beta else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    policy = LogprobModel(model, blocks_of(model))
    judge = None if reference is None else LogprobModel(reference, blocks_of(reference))
    return model, update(policy, judge, optimizer, groups, settings(beta, **changes))


def difference(one: PreTrainedModel, two: PreTrainedModel) -> float:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("fused", [True, False])
def test_sharing_prompts_does_not_change_loss_and_gradient(
    fused: bool, random_model: Callable[..., PreTrainedModel]
) -> None:
    model = random_model()
    policy = LogprobModel(model, blocks_of(model) if fused else None)
    texts = [((5, 6, 7, 8), 6), ((5, 6, 7, 8), 3), ((9, 4), 5), ((5, 6, 7, 8), 1), ((9, 4), 2)]
    rows = [Row(i, prompt, tuple(range(20 + i, 20 + i + n))) for i, (prompt, n) in enumerate(texts)]
    together = micro_batches(rows, 1_000, torch.device("cpu"))
    apart = [batch for row in rows for batch in micro_batches([row], 1_000, torch.device("cpu"))]
    assert sum(len(batch.ids_M) for batch in together) < sum(len(b.ids_M) for b in apart)
    found = []
    for batches in (together, apart):
        policy.clear_gradients()
        total = 0.0
        for batch in batches:
            hidden_NC = policy.hidden(batch)
            logprobs_N, _ = policy.head(hidden_NC, batch.targets_N, 0.7)
            # Another weight for each row, so that no two rows' gradients can be exchanged.
            loss = (logprobs_N * (1.0 + batch.index_N)).sum()
            loss.backward()
            total += loss.item()
        policy.gather_gradients()
        found.append((total, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert (one - two).abs().max() <= 1e-5 * two.abs().max()


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("budget", [1, 60, 120])
def test_micro_batches_do_not_change_the_update(
    budget: int, beta: float, random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    whole, stats = run(random_model, groups, beta)
    cut, cut_stats = run(random_model, groups, beta, tokens_per_microbatch=budget)
    assert difference(random_model(), whole) > 1e-3
    assert difference(whole, cut) < 1e-6
    assert cut_stats.loss == pytest.approx(stats.loss, abs=1e-6)
    assert cut_stats.entropy == pytest.approx(stats.entropy, rel=1e-5)
    assert cut_stats.kl == pytest.approx(stats.kl, rel=1e-4, abs=1e-7)


def test_the_order_of_groups_does_not_change_the_update(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    forward, _ = run(random_model, groups)
    backward, _ = run(random_model, groups[::-1])
    assert difference(forward, backward) < 1e-6


def test_rows_without_advantage_are_not_computed_but_counted(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    skipped, stats = run(random_model, groups)
    assert stats.trained_rows == 8
    # A KL weight of nearly nothing makes every row be computed; the update must be the same.
    computed, all_stats = run(random_model, groups, beta=1e-9)
    assert all_stats.trained_rows == 12
    assert difference(skipped, computed) < 1e-6


@pytest.mark.parametrize("fused", [True, False])
def test_the_entropy_has_its_gradient(
    fused: bool, random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    model, plain, total = random_model(), random_model(), torch.tensor(0.0)
    for each in (model, plain):
        each.get_input_embeddings().padding_idx = None  # as `load_model` does
    policy = LogprobModel(model, blocks_of(model) if fused else None)
    group = groups[0]
    rows = [Row(i, group.prompt.token_ids, c.token_ids) for i, c in enumerate(group.completions)]
    for batch in micro_batches(rows, 10_000, torch.device("cpu")):
        logprobs_N, entropy_N = policy.head(policy.hidden(batch), batch.targets_N, 0.7, True)
        (logprobs_N.sum() + 3 * entropy_N.sum()).backward()
    policy.gather_gradients()
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.completion_ids])
        logits_TV = plain(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1] / 0.7
        drawn = torch.distributions.Categorical(logits=logits_TV)
        total = total + drawn.log_prob(torch.tensor(row.completion_ids)).sum()
        total = total + 3 * drawn.entropy().sum()
    total.backward()
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert (one.grad - two.grad).abs().max() <= 1e-4 * two.grad.abs().max()


def test_the_bonus_for_entropy_acts_on_every_row_and_raises_it(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    plain, without = run(random_model, groups)
    change = {"entropy_coef": 0.5, "every_row": True}
    model, whole = run(random_model, groups, **change)
    cut, parts = run(random_model, groups, **change, tokens_per_microbatch=60)
    assert (without.trained_rows, whole.trained_rows) == (8, 12)
    assert difference(model, cut) < 1e-6
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)
    # The loss is that of the advantages, less half the mean entropy of all rows.
    assert whole.loss == pytest.approx(without.loss - 0.5 * whole.entropy, abs=1e-5)
    policies = (LogprobModel(m, blocks_of(m)) for m in (plain, model))
    optimizers = (torch.optim.SGD(m.parameters(), lr=0.0) for m in (plain, model))
    after = [
        update(policy, None, optimizer, groups, settings(every_row=True)).entropy
        for policy, optimizer in zip(policies, optimizers, strict=True)
    ]
    assert after[1] > after[0]


def test_without_any_signal_nothing_moves(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    flat = [replace(group, advantages=(0.0,) * 4) for group in groups]
    model, stats = run(random_model, flat)
    assert difference(random_model(), model) == 0.0
    assert stats.trained_rows == 0
    # Nothing was computed, so there is nothing to say of it.
    unknown = (stats.entropy, stats.kl, stats.clip_ratio, stats.logprob_gap)
    assert all(math.isnan(value) for value in unknown)
    assert (stats.loss, stats.grad_norm, stats.skipped) == (0.0, 0.0, False)


def test_truncated_completions_can_be_masked(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    truncated = sum(c.truncated for g in groups for c in g.completions if any(g.advantages))
    assert truncated > 0
    _, stats = run(random_model, groups, mask_truncated=True)
    assert stats.trained_rows == 8 - truncated


def test_the_sampler_and_the_trainer_agree(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    _, stats = run(random_model, groups)
    assert 0 < stats.logprob_gap < 1e-4
    wrong = [
        replace(
            group,
            completions=tuple(
                replace(c, logprobs=tuple(v - 0.5 for v in c.logprobs)) for c in group.completions
            ),
        )
        for group in groups
    ]
    _, stats = run(random_model, wrong)
    assert stats.logprob_gap == pytest.approx(0.5, abs=1e-3)


def test_several_iterations_go_further_and_begin_to_clip(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    narrow = LossSettings("dapo", 0.001, 0.001, 0.0, 30)
    one, first = run(random_model, groups, loss=narrow)
    three, last = run(random_model, groups, loss=narrow, num_iterations=3)
    start = random_model()
    assert difference(start, three) > difference(start, one)
    assert first.clip_ratio == 0.0
    assert last.clip_ratio > 0.0


@pytest.mark.parametrize(("epsilon", "epsilon_high"), [(0.001, 0.001), (0.9, 5.0)])
def test_with_one_update_a_batch_epsilon_has_no_effect(
    epsilon: float,
    epsilon_high: float,
    random_model: Callable[..., PreTrainedModel],
    groups: list[Group],
) -> None:
    usual, _ = run(random_model, groups)
    other = LossSettings("dapo", epsilon, epsilon_high, 0.0, 30)
    model, stats = run(random_model, groups, loss=other)
    assert stats.clip_ratio == 0.0
    assert difference(usual, model) == 0.0
    # With more updates it has.
    three, _ = run(random_model, groups, num_iterations=3)
    model, _ = run(random_model, groups, loss=other, num_iterations=3)
    assert difference(three, model) > 0.0


def test_the_gradient_is_clipped_to_its_norm(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    start = random_model()
    model, stats = run(random_model, groups, max_grad_norm=1e-3)
    assert stats.grad_norm > 1e-2
    moved = [(a - b).flatten() for a, b in zip(start.parameters(), model.parameters(), strict=True)]
    assert torch.cat(moved).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-2)


def test_an_update_makes_good_completions_likelier(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:

    rows = [
        Row(i, g.prompt.token_ids, c.token_ids)
        for i, (g, c) in enumerate((g, c) for g in groups for c in g.completions)
    ]
    advantages = torch.tensor([a for g in groups for a in g.advantages])
    (batch,) = micro_batches(rows, 100_000, torch.device("cpu"))

    def weighted(model: PreTrainedModel) -> float:
        logprobs_N = LogprobModel(model, None).logprobs(batch, 1.0)
        return float((logprobs_N * advantages[batch.index_N]).sum())

    trained, _ = run(random_model, groups)
    assert weighted(trained) > weighted(random_model())


class _Scarce:
    """A policy that runs out of memory above so many padded tokens."""

    def __init__(self, policy: LogprobModel, tokens: int) -> None:
        self._policy = policy
        self._tokens = tokens
        self.failures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def hidden(self, batch: Any) -> torch.Tensor:
        hidden_NC = self._policy.hidden(batch)
        if len(batch.ids_M) > self._tokens:
            # Its backward pass fails, when the head's gradients are added already: what is left
            # of the pass must not count.
            hidden_NC.register_hook(self._fail)
        return hidden_NC

    def _fail(self, grad_NC: torch.Tensor) -> None:
        self.failures += 1
        raise torch.OutOfMemoryError("DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("iterations", [1, 2])
def test_running_out_of_memory_halves_the_budget_and_not_the_update(
    iterations: int, random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    whole, stats = run(random_model, groups, num_iterations=iterations)
    model = random_model()
    scarce: Any = _Scarce(LogprobModel(model, blocks_of(model)), 150)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    given = settings(num_iterations=iterations, tokens_per_microbatch=400)
    halved = update(scarce, None, optimizer, groups, given)
    assert scarce.failures > 0
    assert halved.tokens_per_microbatch < 400
    assert halved.loss == pytest.approx(stats.loss, abs=1e-6)
    assert difference(whole, model) < 1e-6


def test_memory_that_is_too_small_for_one_row_ends_with_advice(
    random_model: Callable[..., PreTrainedModel], groups: list[Group]
) -> None:
    model = random_model()
    scarce: Any = _Scarce(LogprobModel(model, blocks_of(model)), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RunFailure, match="out of memory with one completion at a time"):
        update(scarce, None, optimizer, groups, settings())


def test_an_optimizer_without_memory_for_its_state_ends_with_advice(
    random_model: Callable[..., PreTrainedModel],
    groups: list[Group],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model()
    policy = LogprobModel(model, blocks_of(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(optimizer, "step", step)
    with pytest.raises(RunFailure, match="out of memory for the optimizer's state"):
        update(policy, None, optimizer, groups, settings())


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail] DefaultCPUAllocator: can't allocate memory",
        "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_libraries_that_lack_memory_are_understood(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access"))


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    random_model: Callable[..., PreTrainedModel],
    groups: list[Group],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = random_model()
    policy: Any = _Scarce(LogprobModel(model, blocks_of(model)), 10**9)
    monkeypatch.setattr(policy, "hidden", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        update(policy, None, torch.optim.SGD(model.parameters(), lr=0.1), groups, settings())
