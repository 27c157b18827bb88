"""The native engine: rollouts inside the training process, on the policy's own weights.

No copy of the weights is kept, so there is nothing to synchronise and the sampler's
log-probabilities are the trainer's (`logprob_gap` measures by how much they are not).
At most `max_rows` completions are in the cache: a finished one leaves, a waiting prompt enters.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.model.adapters import can_fold_in, cast_copy, folded_copy, has_adapters
from aha.model.free_memory import is_out_of_memory
from aha.model.llama import LlamaBlocks, blocks_of
from aha.rollout.base import SamplingSettings
from aha.rollout.cpu import Choice, CPUDecoder
from aha.rollout.cuda import StaticDecoder
from aha.rollout.hf import Decoder, HFDecoder, refuse_unfit
from aha.rollout.partial import Partial, in_groups, unfinished_text
from aha.rollout.positions import require_positions
from aha.rollout.sampler import sample, uniforms
from aha.rollout.stops import StopStrings
from aha.types import Completion, Prompt, RunFailure

# Prompts enter once this share of the cache is free, so that they are read several at a time.
_ENTER_SHARE = 0.125


class NativeEngine:
    """Generates with the policy in place; `blocks` are its fused blocks, none for other models.

    `max_rows` bounds the completions in the cache at a time, and is halved when memory runs out.
    Adapters are folded into a copy of the weights for each call where that only rounds, on a CPU.
    With `dtype` other than the weights' a copy in that type is made for each call and dropped
    after it: on a GPU, reading float32 weights for every token would take twice as long.
    `decoding`: `aha.rollout.cpu.choose`'s, on a CPU; by default the kernels serve where they can.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        blocks: LlamaBlocks | None = None,
        max_rows: int = 512,
        dtype: torch.dtype | None = None,
        decoding: Choice | None = None,
    ) -> None:
        self._dtype = dtype
        self.decoding = decoding
        self._model = model
        self._tokenizer = tokenizer
        self._blocks = blocks
        self._max_rows = max_rows
        # Where tokens are drawn: in float64, which an Apple GPU does not have.
        device = torch.device("cpu") if model.device.type == "mps" else model.device
        self._end_ids = torch.tensor(sorted(_end_ids(model, tokenizer)), device=device)
        if blocks is None:
            with self._without_training():
                refuse_unfit(model)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
    ) -> list[tuple[Completion, ...]]:
        """See `aha.rollout.base.Engine`."""
        with self._without_training():
            while True:
                rollout = None  # what ran out of memory goes before less is tried
                try:
                    rollout = self._rollout(prompts, num_generations, settings, seed)
                    rollout.run(max(1, self._max_rows // num_generations))
                    break
                except RuntimeError as error:
                    self._take_fewer_rows(error, len(prompts) * num_generations)
        partials = self._partials(rollout)
        return in_groups([partial.completion for partial in partials], num_generations)

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
    ) -> Generator[list[tuple[Partial, ...]], None, None]:
        """What every row has written after each step, or burst of steps, of `generate`.

        The last item holds what `generate` returns. When memory runs out, the rows begin again.
        """
        with self._without_training():
            while True:
                rollout = None  # what ran out of memory goes before less is tried
                try:
                    rollout = self._rollout(prompts, num_generations, settings, seed)
                    for _ in rollout.steps(max(1, self._max_rows // num_generations)):
                        yield in_groups(self._partials(rollout), num_generations)
                    return
                except RuntimeError as error:
                    self._take_fewer_rows(error, len(prompts) * num_generations)

    @contextmanager
    def _without_training(self) -> Iterator[None]:
        was_training = self._model.training
        # Quantised layers compute otherwise in eval mode, and must write as they are trained.
        self._model.train(getattr(self._model, "is_quantized", False))
        try:
            yield
        finally:
            self._model.train(was_training)

    def _take_fewer_rows(self, error: RuntimeError, rows: int) -> None:
        """Errors: `error` when it is of something else, or as `_halved`."""
        if not is_out_of_memory(error):
            raise error
        # What a row writes does not depend on how many there are.
        self._max_rows = _halved(min(self._max_rows, rows))

    def _rollout(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
    ) -> _Rollout:
        prompt, limit = max(len(p.token_ids) for p in prompts), settings.max_completion_length
        require_positions(self._model.config, prompt, limit)
        rows = min(max(self._max_rows, num_generations), len(prompts) * num_generations)
        return _Rollout(
            self._new_decoder(rows, prompt + limit),
            [prompt.token_ids for prompt in prompts],
            num_generations,
            settings,
            uniforms(seed, range(len(prompts) * num_generations), settings.max_completion_length),
            self._end_ids[:0] if settings.ignore_end else self._end_ids,
            StopStrings(self._tokenizer, settings.stop) if settings.stop else None,
        )

    def _new_decoder(self, rows: int, longest: int) -> Decoder:
        model, blocks = self._model, self._blocks
        if has_adapters(model) and model.device.type == "cpu" and can_fold_in(model):
            model = folded_copy(model)
            blocks = blocks_of(model)
        autocast = None if self._dtype == model.dtype else self._dtype
        if autocast is not None:
            model = cast_copy(model, autocast)
            blocks = None if blocks is None else LlamaBlocks(model)
        if blocks is None:
            return HFDecoder(model, autocast)
        off = self.decoding is not None and self.decoding.path == "off"
        decoder = None if off else CPUDecoder.of(blocks, longest)
        # bitsandbytes' 8-bit products wait for the GPU.
        graphs = not getattr(model, "is_loaded_in_8bit", False)
        return decoder or StaticDecoder(blocks, rows, longest, autocast=autocast, graphs=graphs)

    def _partials(self, rollout: _Rollout) -> list[Partial]:
        rows = rollout.written()
        texts = self._tokenizer.batch_decode(
            [row.token_ids for row in rows], skip_special_tokens=True
        )
        return [
            Partial(
                text if row.finish_reason else unfinished_text(text),
                row.token_ids,
                row.logprobs,
                row.finish_reason,
            )
            for text, row in zip(texts, rows, strict=True)
        ]


@dataclass(frozen=True)
class _Written:
    """What one row wrote; `finish_reason` as in `Partial`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"] | None


class _Rollout:
    """One call of `generate`: B = prompts * G rows, R of them live, in the decoder's order.

    Row b belongs to prompt b // G and draws from its own random stream, so what it writes does
    not depend on when it entered or on who was there.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        num_generations: int,
        settings: SamplingSettings,
        uniforms_BT: Tensor,
        end_ids: Tensor,
        stops: StopStrings | None,
    ) -> None:
        device = end_ids.device
        self._decoder = decoder
        self._prompts = prompts
        self._num_generations = num_generations
        self._settings = settings
        self._uniforms_BT = uniforms_BT.to(device)
        self._end_ids = end_ids
        self._stops = stops
        # Bursts draw from the whole distribution, and only an end token ends them.
        s = settings
        plain = s.top_p == 1 and s.top_k == 0 and s.min_p == 0 and stops is None
        self._burst_tokens = decoder.burst_tokens if plain else 0
        self._entered = 0
        self._row_R = torch.empty(0, dtype=torch.long, device=device)
        self._position_R = torch.empty(0, dtype=torch.long, device=device)
        self._lengths_B = torch.full((len(uniforms_BT),), 0, device=device)
        self._stopped_B = torch.zeros(len(uniforms_BT), dtype=torch.bool, device=device)
        # Per step: the rows that wrote, their tokens, and the log-probabilities of these.
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self, max_prompts: int) -> None:
        """Write until every row has ended, `max_prompts` groups of rows at a time at most."""
        for _ in self.steps(max_prompts):
            pass

    def steps(self, max_prompts: int) -> Iterator[None]:
        """As `run`, with a pause after every step or burst for those who look on."""
        if self._burst_tokens:
            yield from self._in_bursts(max_prompts)
            return
        logits_RV = self._enter(max_prompts)
        for count in itertools.count(1):
            tokens_R = self._write(logits_RV)
            yield
            if count % self._decoder.stride:
                logits_RV = self._decoder.step(tokens_R)
                continue
            tokens_R = self._leave(tokens_R)
            parts = [self._decoder.step(tokens_R)] if len(tokens_R) else []
            free = max_prompts - -(-len(self._row_R) // self._num_generations)
            if self._entered < len(self._prompts) and (
                not parts or (self._decoder.can_join and free >= _ENTER_SHARE * max_prompts)
            ):
                parts.append(self._enter(free))
            if not parts:
                return
            logits_RV = parts[0] if len(parts) == 1 else torch.cat(parts)

    def _in_bursts(self, max_prompts: int) -> Iterator[None]:
        """As `steps`, several tokens of every row at a time."""
        tokens_R = self._leave(self._write(self._enter(max_prompts)))
        yield
        while len(self._row_R) or self._entered < len(self._prompts):
            if len(tokens_R):
                tokens_R = self._leave(self._burst(tokens_R))
            free = max_prompts - -(-len(self._row_R) // self._num_generations)
            if self._entered < len(self._prompts) and free >= _ENTER_SHARE * max_prompts:
                live = self._row_R, self._position_R
                self._row_R, self._position_R = live[0][:0], live[1][:0]
                new_R = self._write(self._enter(free))
                self._row_R = torch.cat((live[0], self._row_R))
                self._position_R = torch.cat((live[1], self._position_R))
                tokens_R = self._leave(torch.cat((tokens_R, new_R)))
            yield

    def _burst(self, tokens_R: Tensor) -> Tensor:
        """Draw and record the tokens of one burst for every live row; the last of each."""
        row_R, limit = self._row_R, self._settings.max_completion_length
        steps = min(self._burst_tokens, limit - int(self._position_R.min()))
        column_RS = self._position_R[:, None] + torch.arange(steps)
        uniforms_RS = self._uniforms_BT[row_R[:, None], column_RS.clamp(max=limit - 1)]
        left_R = limit - self._position_R
        drawn = self._decoder.burst(
            tokens_R, uniforms_RS, left_R, self._end_ids, self._settings.temperature
        )
        real_RS = torch.arange(steps) < drawn.written_R[:, None]
        self._steps.append(
            (
                row_R[:, None].expand(-1, steps)[real_RS],
                drawn.tokens_RS[real_RS],
                drawn.logprobs_RS[real_RS],
            )
        )
        self._position_R = self._position_R + drawn.written_R
        over_R = drawn.ended_R | (self._position_R == limit)
        self._lengths_B[row_R] = torch.where(over_R, self._position_R, self._lengths_B[row_R])
        self._stopped_B[row_R] = drawn.ended_R
        return drawn.tokens_RS.gather(1, drawn.written_R[:, None] - 1).squeeze(1)

    def written(self) -> list[_Written]:
        """Every row's tokens up to its end, or so far, in order."""
        row_N = torch.cat([row for row, _, _ in self._steps])
        # Stable: a row's tokens stay in the order in which they were written.
        order_N = row_N.argsort(stable=True)
        tokens = torch.cat([tokens for _, tokens, _ in self._steps])[order_N].tolist()
        logprobs = torch.cat([chosen for _, _, chosen in self._steps])[order_N].tolist()
        counts = torch.bincount(row_N, minlength=len(self._lengths_B)).tolist()
        lengths, stopped = self._lengths_B.tolist(), self._stopped_B.tolist()
        rows, start = [], 0
        for b, count in enumerate(counts):
            # A row that has ended writes on until it leaves; that is cut off here.
            end = start + (lengths[b] or count)
            ended: Literal["stop", "length"] = "stop" if stopped[b] else "length"
            reason = ended if lengths[b] else None
            rows.append(_Written(tuple(tokens[start:end]), tuple(logprobs[start:end]), reason))
            start += count
        return rows

    def _enter(self, prompts: int) -> Tensor:
        """Let up to `prompts` waiting prompts in; logits of their rows."""
        first, last = self._entered, min(self._entered + prompts, len(self._prompts))
        logits_RV = self._decoder.add(self._prompts[first:last], self._num_generations)
        rows = torch.arange(first * self._num_generations, last * self._num_generations)
        self._row_R = torch.cat((self._row_R, rows.to(self._row_R.device)))
        self._position_R = torch.cat(
            (self._position_R, torch.zeros_like(self._row_R[-len(rows) :]))
        )
        self._entered = last
        return logits_RV

    def _write(self, logits_RV: Tensor) -> Tensor:
        """Draw and record a token for every live row, and note which rows it ends.

        Nothing here waits for a GPU, unless there are stop strings.
        """
        limit, row_R = self._settings.max_completion_length, self._row_R
        uniforms_R = self._uniforms_BT[row_R, self._position_R.clamp(max=limit - 1)]
        tokens_R, chosen_R = sample(logits_RV.to(row_R.device), uniforms_R, self._settings)
        self._steps.append((row_R, tokens_R, chosen_R))
        self._position_R = self._position_R + 1
        ended_R = (tokens_R[:, None] == self._end_ids).any(dim=1)
        if self._stops is not None:
            ended_R |= self._stops.reached(row_R, tokens_R)
        length_R = self._lengths_B[row_R]
        new_R = (ended_R | (self._position_R == limit)) & (length_R == 0)
        self._lengths_B[row_R] = torch.where(new_R, self._position_R, length_R)
        self._stopped_B[row_R] |= ended_R & new_R
        return tokens_R

    def _leave(self, tokens_R: Tensor) -> Tensor:
        """Drop ended rows where that pays; the tokens of those that stay."""
        going_R = self._lengths_B[self._row_R] == 0
        live, ended = len(going_R), len(going_R) - int(going_R.sum())
        # A row that has ended must not outgrow its place in the cache.
        full = ended and int(self._position_R.max()) >= self._settings.max_completion_length
        at_once = full or self._burst_tokens > 0
        if not ended or not (at_once or ended >= self._decoder.leave_share * live):
            return tokens_R
        kept_K = going_R.nonzero().squeeze(1)
        self._decoder.keep(kept_K)
        self._row_R, self._position_R = self._row_R[kept_K], self._position_R[kept_K]
        return tokens_R[kept_K]


def _halved(rows: int) -> int:
    """Errors: RunFailure when one row at a time is too much already."""
    if rows <= 1:
        raise RunFailure(
            "out of memory in the rollout with one group of completions at a time; what helps: "
            "a smaller generation.max_completion_length or num_generations, a smaller model."
        )
    return rows // 2


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a completion, from the generation config and the tokenizer."""
    config = getattr(model, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    ids = {declared} if isinstance(declared, int) else set(declared or ())
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return ids
