from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from aha.grpo.batching import Row, align, micro_batches
from aha.grpo.logprobs import completion_logprobs

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
            assert batch.mask_BT[place].sum() == completion
            assert batch.first_B[place] == prompt
        # No column is padding for all rows.
        assert batch.ids_BS[:, -1].any()
        assert batch.mask_BT[:, -1].any()


def test_align_places_values_beside_their_tokens() -> None:
    rows = [Row(0, (2,), (3, 4)), Row(2, (2, 2, 2), (5,))]
    (batch,) = micro_batches(rows, 100, CPU)
    values = align([[0.1, 0.2], [9.0], [0.3]], batch)
    by_index = dict(zip(batch.index_B.tolist(), values.tolist(), strict=True))
    assert by_index[0] == pytest.approx([0.1, 0.2])
    assert by_index[2] == pytest.approx([0.3, 0.0])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_do_not_depend_on_padding_or_order(
    temperature: float, random_model: Callable[..., PreTrainedModel]
) -> None:
    model = random_model()
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
                logprobs, entropy = completion_logprobs(model, batch, temperature)
                for place, index in enumerate(batch.index_B.tolist()):
                    expected = alone(model, rows[index], temperature)
                    length = len(rows[index].completion_ids)
                    chosen = expected.gather(
                        1, torch.tensor(rows[index].completion_ids)[:, None]
                    ).squeeze(1)
                    assert torch.allclose(logprobs[place, :length], chosen, atol=1e-5)
                    by_hand = -(expected.exp() * expected).sum(dim=-1)
                    assert torch.allclose(entropy[place, :length], by_hand, atol=1e-4)


def alone(model: PreTrainedModel, row: Row, temperature: float) -> torch.Tensor:
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits / temperature, dim=-1)
