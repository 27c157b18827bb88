"""Log-probabilities of completion tokens under a model, and the gradient of a loss of them.

A vocabulary of 150,000 makes logits the largest tensor of a step by far. For Llama-like models
they never exist at once: the head runs over some tokens at a time, the loss's gradient is taken
there and then, and the logits are gone (as in Liger's fused linear losses, arXiv:2410.10989).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from aha.grpo.batches import MicroBatch
from aha.model.adapters import adapters_off
from aha.model.llama import LlamaBlocks
from aha.model.ops import causal_attention


class LossOf(Protocol):
    """The share of the loss of some of a micro-batch's tokens, from their log-probabilities."""

    def __call__(self, logprobs_N: Tensor, where: slice) -> Tensor: ...


_LOGIT_BYTES = 2**26  # of logits at a time; there are up to three tensors of that size


class Reference(Protocol):
    """What the update asks of a frozen model; in nats, under softmax(logits / t)."""

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        """Log-probabilities (N,) of the completion tokens, without gradient."""
        ...


class Scorer(Reference, Protocol):
    """What the update asks of the policy."""

    @property
    def model(self) -> PreTrainedModel: ...

    def backward(
        self, batch: MicroBatch, temperature: float, loss_of: LossOf
    ) -> tuple[Tensor, Tensor]:
        """Add the loss's gradient to the parameters; log-probabilities and entropies (N,)."""
        ...

    def gather_gradients(self) -> None:
        """Make sure every parameter's `grad` holds its gradient."""
        ...

    def clear_gradients(self) -> None: ...


def scorer(
    model: PreTrainedModel,
    blocks: LlamaBlocks | None,
    recompute: bool = False,
    autocast: torch.dtype | None = None,
) -> Scorer:
    """The scorer for a model; `blocks` are its fused blocks where it has them.

    `recompute` trades time for memory (gradient checkpointing); `autocast` is the type of the
    large products.
    """
    if blocks is None:
        return _ModelScorer(model, autocast)
    return _BlocksScorer(model, blocks, recompute, autocast)


class WithoutAdapters:
    """The policy as it began: the same weights with the adapters switched off."""

    def __init__(self, policy: Scorer) -> None:
        self._policy = policy

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        with adapters_off(self._policy.model):
            return self._policy.logprobs(batch, temperature)


class _ModelScorer:
    """Any causal LM, through its own forward and with all logits of a micro-batch."""

    def __init__(self, model: PreTrainedModel, autocast: torch.dtype | None) -> None:
        self.model = model
        self._autocast = autocast

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        return _chosen(self._logits(batch, temperature), batch.targets_N)[0]

    def backward(
        self, batch: MicroBatch, temperature: float, loss_of: LossOf
    ) -> tuple[Tensor, Tensor]:
        logprobs_N, logs_NV = _chosen(self._logits(batch, temperature), batch.targets_N)
        loss_of(logprobs_N, slice(0, len(logprobs_N))).backward()
        with torch.no_grad():
            entropy_N = -(logs_NV.exp() * logs_NV).sum(dim=-1)
        return logprobs_N.detach(), entropy_N

    def gather_gradients(self) -> None:
        pass

    def clear_gradients(self) -> None:
        self.model.zero_grad(set_to_none=True)

    def _logits(self, batch: MicroBatch, temperature: float) -> Tensor:
        with _casting(self.model, self._autocast):
            logits_BSV = self.model(input_ids=batch.ids_BS, use_cache=False).logits
        return logits_BSV.flatten(0, 1)[batch.predict_N].float() / temperature


class _BlocksScorer:
    """A Llama-like model, through its fused blocks and a head in chunks."""

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: LlamaBlocks,
        recompute: bool,
        autocast: torch.dtype | None,
    ) -> None:
        self.model = model
        self._blocks = blocks
        self._recompute = recompute
        self._autocast = autocast

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        hidden_NC = self._hidden(self._embedded(batch), batch)
        parts = [
            _chosen(self._logits(hidden_NC[part]) / temperature, batch.targets_N[part])[0]
            for part in self._parts(len(hidden_NC))
        ]
        return torch.cat(parts)

    def backward(
        self, batch: MicroBatch, temperature: float, loss_of: LossOf
    ) -> tuple[Tensor, Tensor]:
        table_VC = self._blocks.embedding
        embedded_MC = self._embedded(batch).requires_grad_(table_VC.requires_grad)
        hidden_NC = self._hidden(embedded_MC, batch)
        grad_NC = torch.empty_like(hidden_NC)
        logprobs, entropies = [], []
        for part in self._parts(len(hidden_NC)):
            one, two = self._head_backward(
                hidden_NC.detach()[part],
                batch.targets_N[part],
                temperature,
                partial(loss_of, where=part),
                grad_NC[part],
            )
            logprobs.append(one)
            entropies.append(two)
        hidden_NC.backward(grad_NC)
        if embedded_MC.grad is not None:
            _add_grad(table_VC).index_add_(
                0, batch.ids_BS.flatten(), embedded_MC.grad.to(table_VC.dtype)
            )
        return torch.cat(logprobs), torch.cat(entropies)

    def gather_gradients(self) -> None:
        for stack in self._blocks.stacks:
            stack.share_gradients()

    def clear_gradients(self) -> None:
        self.model.zero_grad(set_to_none=True)
        for stack in self._blocks.stacks:
            stack.clear_gradients()

    def _embedded(self, batch: MicroBatch) -> Tensor:
        # Its gradient is added by hand: autograd would make a second table to hold it.
        return functional.embedding(batch.ids_BS.flatten(), self._blocks.embedding.detach())

    def _hidden(self, embedded_MC: Tensor, batch: MicroBatch) -> Tensor:
        """Hidden states (N, C) that predict the completion tokens, after the last norm."""
        rows, width = batch.ids_BS.shape
        cos, sin = (angle.repeat(rows, 1, 1) for angle in self._blocks.angles(width))

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return causal_attention(query, key, value, rows)

        with _casting(self.model, self._autocast):
            hidden_MC = self._blocks.run(embedded_MC, cos, sin, attend, self._recompute)
        return self._blocks.last_norm(hidden_MC[batch.predict_N])

    def _parts(self, tokens: int) -> list[slice]:
        size = max(1, _LOGIT_BYTES // (4 * self._blocks.head.weight.shape[0]))
        return [slice(start, start + size) for start in range(0, tokens, size)]

    def _logits(self, hidden_NC: Tensor) -> Tensor:
        with _casting(self.model, self._autocast):
            return self._blocks.head(hidden_NC).float()

    @torch.no_grad()
    def _head_backward(
        self,
        hidden_NC: Tensor,
        targets_N: Tensor,
        temperature: float,
        loss_of: Callable[[Tensor], Tensor],
        grad_NC: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of some tokens; gradients into `grad_NC` and the head.

        With w the loss's derivative by a token's log-probability, that by its logits is
        w (onehot - softmax) / temperature.
        """
        logits_NV = self._logits(hidden_NC).div_(temperature)
        total_N1 = logits_NV.logsumexp(dim=-1, keepdim=True)
        logprobs_N = (logits_NV.gather(1, targets_N[:, None]) - total_N1).squeeze(1)
        probs_NV = (logits_NV - total_N1).exp_()
        entropy_N = total_N1.squeeze(1) - torch.linalg.vecdot(probs_NV, logits_NV)
        del logits_NV
        with torch.enable_grad():
            leaf_N = logprobs_N.clone().requires_grad_()
            (weight_N,) = torch.autograd.grad(loss_of(leaf_N), leaf_N)
        weight_N1 = weight_N[:, None] / temperature
        grad_NV = probs_NV.mul_(-weight_N1).scatter_add_(1, targets_N[:, None], weight_N1)
        head: Any = self._blocks.head
        with _casting(self.model, self._autocast):
            grad_NC.copy_(grad_NV.to(head.weight.dtype) @ head.weight)
        if head.weight.requires_grad:
            _add_product(head.weight, grad_NV, hidden_NC, self._autocast)
        if head.bias is not None and head.bias.requires_grad:
            _add_grad(head.bias).add_(grad_NV.sum(dim=0))
        return logprobs_N, entropy_N


def _chosen(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    logs_NV = torch.log_softmax(logits_NV, dim=-1)
    return logs_NV.gather(1, targets_N[:, None]).squeeze(1), logs_NV


def _casting(
    model: PreTrainedModel, dtype: torch.dtype | None
) -> AbstractContextManager[object, bool | None]:
    return torch.autocast(model.device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def _add_grad(parameter: Tensor) -> Tensor:
    """The parameter's gradient, zeros if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _add_product(
    weight_VC: Tensor, grad_NV: Tensor, hidden_NC: Tensor, dtype: torch.dtype | None
) -> None:
    """Add grad^T @ hidden to the weight's gradient, in place where nothing is cast."""
    total_VC = _add_grad(weight_VC)
    if dtype is None and grad_NV.dtype == hidden_NC.dtype == total_VC.dtype:
        total_VC.addmm_(grad_NV.t(), hidden_NC)
    else:
        cast = dtype or weight_VC.dtype
        total_VC.add_(grad_NV.t().to(cast) @ hidden_NC.to(cast))
