from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from aha.model.kernels.decode import Widths
from aha.model.sizes import Pass, kept_per_token
from aha.train.memory import tokens_that_fit


def bytes_per_token(model: PreTrainedModel, fused: bool, recompute: bool) -> float:
    return float(kept_per_token(Widths.of(model.config), Pass(fused, recompute, 4, 4)))


def test_the_budget_follows_the_free_memory_between_its_bounds(
    random_model: Callable[..., PreTrainedModel],
) -> None:
    model = random_model()
    per_token = bytes_per_token(model, fused=True, recompute=False)
    trained = sum(p.numel() * 4 for p in model.parameters())
    room = int(3 * trained + 2 * per_token * 1000)
    assert tokens_that_fit(model, True, False, "device", room) == pytest.approx(1000, abs=1)
    assert tokens_that_fit(model, True, False, "device", 0) == 256
    assert tokens_that_fit(model, True, False, "device", 10**12) == 4096


def test_a_smaller_state_leaves_more_room(random_model: Callable[..., PreTrainedModel]) -> None:
    model = random_model()
    per_token = bytes_per_token(model, fused=True, recompute=False)
    room = int(3 * sum(p.numel() * 4 for p in model.parameters()) + 2 * per_token * 600)
    assert tokens_that_fit(model, True, False, "8bit", room) > tokens_that_fit(
        model, True, False, "device", room
    )


def test_what_a_token_keeps(random_model: Callable[..., PreTrainedModel]) -> None:
    model = random_model(num_hidden_layers=10)
    plain = bytes_per_token(model, fused=True, recompute=False)
    assert bytes_per_token(model, fused=True, recompute=True) < plain / 4
    assert bytes_per_token(model, fused=False, recompute=False) > plain
