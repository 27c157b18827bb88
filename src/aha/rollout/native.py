"""The native engine: rollouts inside the training process, on the policy's own weights.

No copy of the weights is kept, so there is nothing to synchronise and the sampler's
log-probabilities are the trainer's (`logprob_gap` measures by how much they are not).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.rollout import fused
from aha.rollout.base import SamplingSettings
from aha.rollout.decoder import Decoder, HFDecoder
from aha.rollout.sampler import sample, uniforms
from aha.types import Completion, Prompt

# Finished rows leave the cache once they are this share of it: leaving costs a copy.
_LEAVE_SHARE = 0.125


@dataclass(frozen=True)
class _Wave:
    """What a wave of B rows wrote: tokens and log-probabilities (B, T), lengths and ends (B,)."""

    tokens_BT: Tensor
    logprobs_BT: Tensor
    lengths_B: Tensor
    stopped_B: Tensor


class NativeEngine:
    """Generates with the policy in place; `max_rows` bounds the rows in the cache at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_rows: int = 512,
        allow_fused: bool = True,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_rows = max_rows
        self._fused = allow_fused and fused.supports(model)
        self._end_ids = torch.tensor(sorted(_end_ids(model, tokenizer)), device=model.device)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
    ) -> list[tuple[Completion, ...]]:
        """See `aha.rollout.base.Engine`."""
        was_training = self._model.training
        self._model.eval()
        groups: list[tuple[Completion, ...]] = []
        per_wave = max(1, self._max_rows // num_generations)
        for start in range(0, len(prompts), per_wave):
            part = prompts[start : start + per_wave]
            first_row = start * num_generations
            wave = self._wave(part, num_generations, settings, seed, first_row)
            groups.extend(self._groups(wave, num_generations))
        self._model.train(was_training)
        return groups

    def _wave(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
        first_row: int,
    ) -> _Wave:
        device, limit = self._model.device, settings.max_completion_length
        rows = len(prompts) * num_generations
        decoder = self._new_decoder()
        logits_RV = decoder.prefill([p.token_ids for p in prompts], num_generations)
        uniforms_BT = uniforms(seed, range(first_row, first_row + rows), limit).to(device)
        tokens_BT = torch.zeros(rows, limit, dtype=torch.long, device=device)
        logprobs_BT = torch.zeros(rows, limit, device=device)
        lengths_B = torch.full((rows,), limit, device=device)
        stopped_B = torch.zeros(rows, dtype=torch.bool, device=device)
        live_R = torch.arange(rows, device=device)
        for position in range(limit):
            tokens_R, chosen_R = sample(logits_RV, uniforms_BT[live_R, position], settings)
            tokens_BT[live_R, position] = tokens_R
            logprobs_BT[live_R, position] = chosen_R
            ended_R = torch.isin(tokens_R, self._end_ids) & ~stopped_B[live_R]
            lengths_B[live_R[ended_R]] = position + 1
            stopped_B[live_R[ended_R]] = True
            going_R = ~stopped_B[live_R]
            going = int(going_R.sum())
            if going == 0 or position + 1 == limit:
                break
            if len(live_R) - going >= _LEAVE_SHARE * len(live_R):
                kept_K = going_R.nonzero().squeeze(1)
                decoder.keep(kept_K)
                live_R, tokens_R = live_R[kept_K], tokens_R[kept_K]
            logits_RV = decoder.step(tokens_R)
        return _Wave(tokens_BT, logprobs_BT, lengths_B, stopped_B)

    def _new_decoder(self) -> Decoder:
        return fused.FusedDecoder(self._model) if self._fused else HFDecoder(self._model)

    def _groups(self, wave: _Wave, num_generations: int) -> list[tuple[Completion, ...]]:
        tokens, logprobs = wave.tokens_BT.tolist(), wave.logprobs_BT.tolist()
        lengths, stopped = wave.lengths_B.tolist(), wave.stopped_B.tolist()
        rows = [tokens[b][: lengths[b]] for b in range(len(lengths))]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        completions = [
            Completion(
                text=texts[b],
                token_ids=tuple(rows[b]),
                logprobs=tuple(logprobs[b][: lengths[b]]),
                finish_reason="stop" if stopped[b] else "length",
            )
            for b in range(len(rows))
        ]
        return [
            tuple(completions[start : start + num_generations])
            for start in range(0, len(completions), num_generations)
        ]


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a completion, from the generation config and the tokenizer."""
    config = getattr(model, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    ids = {declared} if isinstance(declared, int) else set(declared or ())
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return ids
