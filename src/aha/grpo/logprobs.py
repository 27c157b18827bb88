"""Log-probabilities of completion tokens under a model, with gradients.

A vocabulary of 150,000 makes the logits the largest tensor of a step by far. For Llama-like
models all logits never exist at once: the head is applied to some tokens at a time, and the caller
runs the loss and its backward pass before the next ones (as Liger's fused linear losses do,
arXiv:2410.10989). Gradients of the two vocabulary tables are added in place, because autograd
would make a second table to hold each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from aha.grpo.batches import MicroBatch
from aha.model.llama import LlamaBlocks
from aha.model.lora import adapters_off
from aha.model.ops import add_product, casting, causal_attention, linear_float32

# Bytes of logits at a time. Up to three tensors of that size exist. A GPU needs more tokens in a
# product to be busy: every call of the head reads its weights and its gradient once.
LOGIT_BYTES = 2**26
LOGIT_BYTES_ON_GPU = 2**28


def logit_bytes(device: str) -> int:
    """Bytes of logits that exist at a time on a device of this type, `cuda` or another."""
    return LOGIT_BYTES_ON_GPU if device == "cuda" else LOGIT_BYTES


class LogprobModel:
    """A causal language model that computes log-probabilities under softmax(logits / temperature).

    `blocks` are the model's fused blocks, or None to use its own forward and all logits of a
    microbatch. `recompute` trades time for memory (gradient checkpointing). `autocast` is the
    dtype of the large products.

    For each microbatch call `hidden`, then `head` on `tokens_at_once` of its rows at a time, and
    send the gradients back in the opposite order. `aha.grpo.update` shows it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        blocks: LlamaBlocks | None,
        recompute: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self._blocks = blocks
        self._recompute = recompute
        self._autocast = autocast

    @property
    def shares_prompts(self) -> bool:
        """True if a prompt is computed once for all its completions in a microbatch."""
        return self._blocks is not None

    @property
    def tokens_at_once(self) -> int:
        """Tokens for one call of `head`, so that their logits take at most `logit_bytes`."""
        if self._blocks is None:
            return 2**31  # the logits exist already
        head_VC = self._blocks.head.weight
        return max(1, logit_bytes(head_VC.device.type) // (4 * head_VC.shape[0]))

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Hidden states (N, C) that predict the completion tokens; without blocks, logits (N, V).

        N counts completion tokens without padding.
        """
        blocks = self._blocks
        if blocks is None:
            ids_BS = batch.ids_M[batch.place_BS]
            with casting(self.model.device, self._autocast):
                logits_BSV = self.model(input_ids=ids_BS, use_cache=False).logits
            return logits_BSV.flatten(0, 1)[batch.pick_M[batch.predict_N]]
        dtype, width = self._autocast or blocks.embedding.dtype, batch.place_BS.shape[1]
        cos, sin = (angle.to(dtype)[batch.position_M] for angle in blocks.angles(width))

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            places = batch.place_BS, batch.pick_M, batch.own_B2
            return causal_attention(query, key, value, *places)

        embedded_MC: Tensor = _Embedding.apply(batch.ids_M, blocks.embedding)
        with casting(self.model.device, self._autocast):
            hidden_MC = blocks.run(embedded_MC, cos, sin, attend, self._recompute)
        return blocks.last_norm(hidden_MC[batch.predict_N])

    def head(
        self,
        hidden_NC: Tensor,
        targets_N: Tensor,
        temperature: float,
        entropy_gradient: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N,) of the targets with gradient, and entropies (N,) in nats.

        With `entropy_gradient` the entropies have a gradient too.
        """
        if self._blocks is None:
            logs_NV = torch.log_softmax(hidden_NC.float() / temperature, dim=-1)
            with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
                entropy_N = -(logs_NV.exp() * logs_NV).sum(dim=-1)
            return logs_NV.gather(1, targets_N[:, None]).squeeze(1), entropy_N
        logprobs_N, entropy_N = _Head.apply(
            hidden_NC, targets_N, temperature, self._blocks.head, self._autocast
        )
        return logprobs_N, entropy_N if entropy_gradient else entropy_N.detach()

    @torch.no_grad()
    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        """Log-probabilities (N,) of the completion tokens in nats, without gradient."""
        pieces_NC = self.hidden(batch).split(self.tokens_at_once)
        targets_N = batch.targets_N.split(self.tokens_at_once)
        pieces = zip(pieces_NC, targets_N, strict=True)
        return torch.cat([self.head(*piece, temperature)[0] for piece in pieces])

    def gather_gradients(self) -> None:
        """Put each parameter's gradient into its `grad`; fused layers keep theirs together."""
        if self._blocks is not None:
            for stack in self._blocks.stacks:
                stack.share_gradients()

    def clear_gradients(self) -> None:
        self.model.zero_grad(set_to_none=True)
        if self._blocks is not None:
            for stack in self._blocks.stacks:
                stack.clear_gradients()


class WithoutAdapters:
    """The policy as it began: the same weights with the adapters switched off."""

    def __init__(self, policy: LogprobModel) -> None:
        self._policy = policy

    def logprobs(self, batch: MicroBatch, temperature: float) -> Tensor:
        with adapters_off(self._policy.model):
            return self._policy.logprobs(batch, temperature)


# The frozen model of the KL term.
Reference = LogprobModel | WithoutAdapters


class _Embedding(torch.autograd.Function):
    """Rows of the embedding table; the backward pass adds to the table's gradient in place."""

    @staticmethod
    def forward(ctx: Any, ids_M: Tensor, table_VC: Tensor) -> Tensor:
        ctx.ids_M, ctx.table_VC = ids_M, table_VC
        return functional.embedding(ids_M, table_VC)

    @staticmethod
    def backward(ctx: Any, grad_MC: Tensor) -> tuple[None, None]:
        table_VC = ctx.table_VC
        _grad_of(table_VC).index_add_(0, ctx.ids_M, grad_MC.to(table_VC.dtype))
        return None, None


class _Head(torch.autograd.Function):
    """log softmax(head(hidden) / temperature) at the targets, and the entropy.

    The derivative of one log-probability by its logits is (onehot - p) / temperature, and that of
    the entropy H is -p (log p + H) / temperature, with p the softmax.
    The backward pass adds to the head's own gradients in place.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        targets_N: Tensor,
        temperature: float,
        head: torch.nn.Linear,
        autocast: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        weight_VC = head.weight.detach().to(autocast or head.weight.dtype)
        logits_NV = linear_float32(hidden_NC, weight_VC, head.bias)
        if temperature != 1.0:
            logits_NV.div_(temperature)
        total_N1 = logits_NV.logsumexp(dim=-1, keepdim=True)
        logprobs_N = (logits_NV.gather(1, targets_N[:, None]) - total_N1).squeeze(1)
        probs_NV = (logits_NV - total_N1).exp_()
        entropy_N = total_N1.squeeze(1) - torch.linalg.vecdot(probs_NV, logits_NV)
        ctx.save_for_backward(hidden_NC, targets_N, probs_NV, weight_VC, entropy_N)
        ctx.temperature, ctx.head = temperature, head
        ctx.set_materialize_grads(False)  # the entropy's gradient is None without a bonus
        return logprobs_N, entropy_N

    @staticmethod
    def backward(
        ctx: Any, grad_N: Tensor, grad_entropy_N: Tensor | None
    ) -> tuple[Tensor, None, None, None, None]:
        hidden_NC, targets_N, probs_NV, weight_VC, entropy_N = ctx.saved_tensors
        head, bonus_NV = ctx.head, None
        if grad_entropy_N is not None:
            # p log p is 0 where p is 0.
            bonus_NV = torch.xlogy(probs_NV, probs_NV).addcmul_(probs_NV, entropy_N[:, None])
            bonus_NV.mul_(grad_entropy_N[:, None] / ctx.temperature)
        grad_N1 = grad_N[:, None] / ctx.temperature
        # The probabilities are not needed again; their memory becomes the logits' gradient.
        grad_NV = probs_NV.mul_(-grad_N1).scatter_add_(1, targets_N[:, None], grad_N1)
        if bonus_NV is not None:
            grad_NV.sub_(bonus_NV)
        if head.bias is not None and head.bias.requires_grad:
            _grad_of(head.bias).add_(grad_NV.sum(dim=0))
        grad_NV = grad_NV.to(weight_VC.dtype)
        grad_NC = grad_NV @ weight_VC
        if head.weight.requires_grad:
            add_product(_grad_of(head.weight), grad_NV, hidden_NC.to(weight_VC.dtype))
        return grad_NC.to(hidden_NC.dtype), None, None, None, None


def _grad_of(parameter: Tensor) -> Tensor:
    """The parameter's gradient, made of zeros if it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
