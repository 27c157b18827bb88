from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from aha.grpo.batches import PLACES, Row, micro_batches
from aha.grpo.logprobs import LogprobModel
from aha.model.llama import blocks_of
from aha.model.ops import shared_beginnings

CPU = torch.device("cpu")
LENGTHS = st.tuples(st.integers(1, 9), st.integers(1, 30))


@given(st.lists(LENGTHS, min_size=1, max_size=20), st.integers(5, 120), st.booleans())
def test_every_row_is_in_one_batch_within_the_budget(
    lengths: list[tuple[int, int]], budget: int, shared: bool
) -> None:
    # Rows whose prompts have one length have one prompt.
    rows = [Row(i, (2,) * p, tuple(range(3, 3 + c))) for i, (p, c) in enumerate(lengths)]
    batches = micro_batches(rows, budget, CPU, shared)
    assert sorted(row.index for b in batches for row in b.rows) == list(range(len(rows)))
    for batch in batches:
        places, alone = batch.place_BS.numel(), len(batch.place_BS) == 1
        if shared:
            assert alone or (len(batch.ids_M) <= budget and places <= PLACES * budget)
        else:
            assert alone or places <= budget
        for place, row in enumerate(batch.rows):
            prompt, completion = row.prompt_ids, row.completion_ids
            read = [*prompt, *completion[:-1]]
            at = batch.place_BS[place, : len(read)]
            assert batch.ids_M[at].tolist() == read
            assert batch.position_M[at].tolist() == list(range(len(read)))
            mine = batch.index_N == row.index
            assert batch.targets_N[mine].tolist() == list(completion)
            # Each target is predicted by the token that stands before it.
            assert batch.predict_N[mine].tolist() == at[len(prompt) - 1 :].tolist()
        # Each beginning of a row exists once.
        read = [(*row.prompt_ids, *row.completion_ids[:-1]) for row in batch.rows]
        assert len(batch.ids_M) == len({ids[: n + 1] for ids in read for n in range(len(ids))})
        # A token is picked where it stands.
        assert batch.place_BS.flatten()[batch.pick_M].tolist() == list(range(len(batch.ids_M)))


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
                counts = [len(row.completion_ids) for row in batch.rows]
                hidden = policy.hidden(batch)
                logprobs, entropy = policy.head(hidden, batch.targets_N, temperature)
                assert torch.allclose(policy.logprobs(batch, temperature), logprobs, atol=1e-6)
                parts = zip(batch.rows, logprobs.split(counts), entropy.split(counts), strict=True)
                for row, mine, uncertainty in parts:
                    expected = alone(model, row, temperature)
                    targets = torch.tensor(row.completion_ids)[:, None]
                    assert torch.allclose(mine, expected.gather(1, targets).squeeze(1), atol=1e-5)
                    by_hand = -(expected.exp() * expected).sum(dim=-1)
                    assert torch.allclose(uncertainty, by_hand, atol=1e-4)


def alone(model: PreTrainedModel, row: Row, temperature: float) -> torch.Tensor:
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits / temperature, dim=-1)


def test_beginnings_are_shared_with_the_row_before() -> None:
    rows = [(5, 6, 7), (5, 6, 8, 9), (5,), (4, 6)]
    ids, position, place, pick, own = shared_beginnings(rows)
    assert ids.tolist() == [5, 6, 7, 8, 9, 4, 6]
    assert position.tolist() == [0, 1, 2, 2, 3, 0, 1]
    assert place.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4], [0, 0, 0, 0], [5, 6, 0, 0]]
    assert place.flatten()[pick].tolist() == list(range(7))
    assert own.tolist() == [[0, 3], [2, 4], [1, 1], [0, 2]]
    *_, left, pick, own = shared_beginnings(rows, left=True)
    assert left.tolist() == [[0, 0, 1, 2], [0, 1, 3, 4], [0, 0, 0, 0], [0, 0, 5, 6]]
    assert left.flatten()[pick].tolist() == list(range(7))
    assert own.tolist() == [[1, 4], [2, 4], [4, 4], [2, 4]]
