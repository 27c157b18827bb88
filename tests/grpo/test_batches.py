from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from aha.grpo.batches import Row, micro_batches
from aha.grpo.logprobs import LogprobModel
from aha.model.llama import blocks_of

CPU = torch.device("cpu")
LENGTHS = st.tuples(st.integers(1, 9), st.integers(1, 30))


@given(st.lists(LENGTHS, min_size=1, max_size=20), st.integers(5, 120))
def test_every_row_is_in_one_batch_within_the_budget(
    lengths: list[tuple[int, int]], budget: int
) -> None:
    rows = [Row(i, (2,) * p, (3,) * c) for i, (p, c) in enumerate(lengths)]
    batches = micro_batches(rows, budget, CPU)
    assert sorted(i for b in batches for i in b.index_B.tolist()) == list(range(len(rows)))
    for batch in batches:
        assert batch.ids_BS.numel() <= budget or len(batch.ids_BS) == 1
        for place, index in enumerate(batch.index_B.tolist()):
            prompt, completion = lengths[index]
            assert batch.ids_BS[place].count_nonzero() == prompt + completion
            mine = batch.row_N == place
            assert mine.sum() == completion
            first = place * batch.ids_BS.shape[1] + prompt - 1
            assert batch.predict_N[mine].tolist() == list(range(first, first + completion))
        # Each target stands right after the place that predicts it.
        assert torch.equal(batch.ids_BS.flatten()[batch.predict_N + 1], batch.targets_N)
        # No column is padding for all rows.
        assert batch.ids_BS[:, -1].any()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_do_not_depend_on_padding_or_order(
    temperature: float, fused: bool, random_model: Callable[..., PreTrainedModel]
) -> None:
    model = random_model()
    policy = LogprobModel(model, blocks_of(model) if fused else None)
    generator = torch.Generator().manual_seed(0)
    rows = [
        Row(
            i,
            tuple(torch.randint(2, 200, (2 + i,), generator=generator).tolist()),
            tuple(torch.randint(2, 200, (12 - 2 * i,), generator=generator).tolist()),
        )
        for i in range(5)
    ]
    for given_rows in (rows, rows[::-1]):
        for budget in (14, 40, 1_000):
            for batch in micro_batches(given_rows, budget, CPU):
                counts = batch.row_N.bincount().tolist()
                hidden = policy.hidden(batch)
                logprobs, entropy = policy.head(hidden, batch.targets_N, temperature)
                assert torch.allclose(policy.logprobs(batch, temperature), logprobs, atol=1e-6)
                parts = zip(
                    batch.index_B.tolist(), logprobs.split(counts), entropy.split(counts),
                    strict=True,
                )  # fmt: skip
                for index, mine, uncertainty in parts:
                    expected = alone(model, rows[index], temperature)
                    targets = torch.tensor(rows[index].completion_ids)[:, None]
                    assert torch.allclose(mine, expected.gather(1, targets).squeeze(1), atol=1e-5)
                    by_hand = -(expected.exp() * expected).sum(dim=-1)
                    assert torch.allclose(uncertainty, by_hand, atol=1e-4)


def alone(model: PreTrainedModel, row: Row, temperature: float) -> torch.Tensor:
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits / temperature, dim=-1)
