"""The recipe's AdamW: its state on the device, in the CPU's memory, or in 8 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aha.sections import OptimizerSection

# bitsandbytes' blocks: so many values share one scale in float32.
_BLOCK = 256


class HostAdamW(torch.optim.Optimizer):
    """AdamW whose moments lie in the CPU's memory, where the weights are updated too.

    The device keeps weights and gradients. The host keeps a copy of the weights, the moments, and
    two gradients at a time: while one parameter is updated, the gradient of the next arrives. The
    updates and the saved state are those of `torch.optim.AdamW`.
    Source: ZeRO-Offload (arXiv:2101.06840), without its delayed update.
    """

    def __init__(self, parameters: list[nn.Parameter], **settings: Any) -> None:
        hosts = [_on_host(parameter.detach()) for parameter in parameters]
        # One optimizer for each parameter, so that it can be updated alone.
        self._adams = [torch.optim.AdamW([host], fused=True, **settings) for host in hosts]
        super().__init__(parameters, self._adams[0].defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        group = self.param_groups[0]
        pairs = zip(group["params"], self._adams, strict=True)
        waiting = [(parameter, adam) for parameter, adam in pairs if parameter.grad is not None]
        arriving = [_fetch(parameter.grad) for parameter, _ in waiting[:1]]
        for number, (parameter, adam) in enumerate(waiting):
            gradient, arrived = arriving.pop()
            if number + 1 < len(waiting):
                arriving.append(_fetch(waiting[number + 1][0].grad))
            if arrived is not None:
                arrived.synchronize()
            host = adam.param_groups[0]["params"][0]
            adam.param_groups[0]["lr"], host.grad = group["lr"], gradient
            adam.step()
            host.grad = None
            parameter.copy_(host, non_blocking=True)
            self.state[parameter] = adam.state[host]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read the state of this or of a `torch.optim.AdamW`; it stays on the host."""
        self.state.clear()
        for number, (parameter, adam) in enumerate(
            zip(self.param_groups[0]["params"], self._adams, strict=True)
        ):
            moments = state_dict["state"].get(number)
            group = {**state_dict["param_groups"][0], "params": [0]}
            state = {} if moments is None else {0: moments}
            adam.load_state_dict({"state": state, "param_groups": [group]})
            if moments is not None:
                self.state[parameter] = adam.state[adam.param_groups[0]["params"][0]]


def build_optimizer(model: nn.Module, settings: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW on all trainable parameters; each step sets the learning rate.

    On a CPU `state: cpu` is the same as `device`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.adam_beta1, settings.adam_beta2),
        "eps": settings.adam_epsilon,
        "weight_decay": settings.weight_decay,
    }
    if settings.state == "8bit":
        from bitsandbytes.optim import adamw

        eight: torch.optim.Optimizer = adamw.AdamW8bit(parameters, **options)
        return eight
    if settings.state == "cpu" and parameters[0].device.type != "cpu":
        return HostAdamW(parameters, **options)
    return torch.optim.AdamW(parameters, fused=True, **options)


def moments_bytes(trained: int, item: int, state: str, device: str) -> int:
    """Bytes on the device of Adam's moments for `trained` bytes of weights, `item` each."""
    if state == "8bit":
        return int(trained // item * 2 * (1 + 4 / _BLOCK))
    return 0 if state == "cpu" and device != "cpu" else 2 * trained


def _on_host(tensor: Tensor) -> Tensor:
    pinned = tensor.device.type == "cuda"
    return torch.empty_like(tensor, device="cpu", pin_memory=pinned).copy_(tensor)


def _fetch(gradient: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The gradient on the host, and the event after which it is complete (None: now)."""
    cuda = gradient.device.type == "cuda"
    host = torch.empty_like(gradient, device="cpu", pin_memory=cuda)
    host.copy_(gradient, non_blocking=True)
    if not cuda:
        return host, None
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
