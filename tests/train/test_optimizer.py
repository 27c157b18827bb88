"""AdamW's state in its three places: the updates are the same, and a saved state goes on."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from aha import recipe as recipes
from aha.recipe import load_recipe, require_trainable
from aha.sections import OptimizerSection
from aha.train.optimizer import HostAdamW, build_optimizer, moments_bytes
from aha.types import UserError

SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def layers() -> nn.Module:
    torch.manual_seed(1)
    # Larger than bitsandbytes' smallest tensor in 8 bits (4,096 values), and smaller.
    return nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 3))


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    torch.manual_seed(step)
    optimizer.zero_grad()
    optimizer.param_groups[0]["lr"] = 1e-2 / step
    model(torch.randn(5, 96)).square().sum().backward()
    if step == 2:  # a parameter without a gradient is left alone
        model[1].bias.grad = None
    optimizer.step()


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state as a checkpoint's file gives it back."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def test_the_state_on_the_host_gives_adamw_s_updates() -> None:
    plain, hosted = layers(), layers()
    adamw = torch.optim.AdamW(plain.parameters(), fused=True, **SETTINGS)
    host = HostAdamW(list(hosted.parameters()), **SETTINGS)
    for step in (1, 2, 3):
        one_step(plain, adamw, step)
        one_step(hosted, host, step)
    for a, b in zip(plain.parameters(), hosted.parameters(), strict=True):
        assert torch.equal(a, b)
    # Either reads the other's state and goes on.
    there, back = saved(host), saved(adamw)
    host = HostAdamW(list(hosted.parameters()), **SETTINGS)
    host.load_state_dict(back)
    adamw = torch.optim.AdamW(plain.parameters(), fused=True, **SETTINGS)
    adamw.load_state_dict(there)
    one_step(plain, adamw, 4)
    one_step(hosted, host, 4)
    for a, b in zip(plain.parameters(), hosted.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("state", ["device", "cpu", "8bit"])
def test_a_saved_state_goes_on_exactly(state: str) -> None:
    pytest.importorskip("bitsandbytes")
    settings = OptimizerSection(state=state, weight_decay=0.1)  # type: ignore[arg-type]
    through, stopped = layers(), layers()
    whole, first = build_optimizer(through, settings), build_optimizer(stopped, settings)
    for step in (1, 2):
        one_step(through, whole, step)
        one_step(stopped, first, step)
    second = build_optimizer(stopped, settings)
    second.load_state_dict(saved(first))
    for step in (3, 4):
        one_step(through, whole, step)
        one_step(stopped, second, step)
    for a, b in zip(through.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)


def test_8_bits_follow_adamw_closely_and_take_a_quarter() -> None:
    pytest.importorskip("bitsandbytes")
    start, plain, packed = layers(), layers(), layers()
    adamw = build_optimizer(plain, OptimizerSection())
    eight = build_optimizer(packed, OptimizerSection(state="8bit"))
    for step in (1, 2, 3):
        one_step(plain, adamw, step)
        one_step(packed, eight, step)
    moved = nn.utils.parameters_to_vector(plain.parameters()) - nn.utils.parameters_to_vector(
        start.parameters()
    )
    apart = nn.utils.parameters_to_vector(plain.parameters()) - nn.utils.parameters_to_vector(
        packed.parameters()
    )
    assert 0 < apart.norm() < 0.05 * moved.norm()
    weight = packed[0].weight
    moments = [eight.state[weight][name] for name in ("state1", "state2", "absmax1", "absmax2")]
    held = sum(moment.numel() * moment.element_size() for moment in moments)
    assert held == moments_bytes(4 * weight.numel(), 4, "8bit", "cpu")
    assert held < 0.26 * moments_bytes(4 * weight.numel(), 4, "device", "cpu")


def test_on_a_cpu_there_is_nothing_to_move(random_model: Callable[..., PreTrainedModel]) -> None:
    found = build_optimizer(random_model(), OptimizerSection(state="cpu"))
    assert type(found) is torch.optim.AdamW
    assert moments_bytes(400, 4, "cpu", "cpu") == moments_bytes(400, 4, "device", "cuda") == 800
    assert moments_bytes(400, 4, "cpu", "cuda") == 0


def test_8_bits_without_their_package_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "find_spec", lambda name: None)
    recipe = load_recipe("countdown-tiny", ["optimizer.state=8bit"])
    with pytest.raises(UserError, match=r"optimizer\.state is '8bit'.*pip install"):
        require_trainable(recipe)
