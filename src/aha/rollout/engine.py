"""The native engine: rollouts inside the training process, on the policy's own weights.

No copy of the weights is kept, so nothing must be synchronised, and the sampler computes the
trainer's log-probabilities up to rounding (`logprob_gap` logs the largest difference).
At most `max_rows` completions are in the cache. Finished ones leave it, and waiting prompts enter.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from aha.model.free_memory import is_out_of_memory
from aha.model.llama import LlamaBlocks, blocks_of
from aha.model.load import require_positions
from aha.model.lora import can_fold_in, cast_copy, folded_copy, has_adapters
from aha.rollout.base import Decoder, Partial, SamplingSettings, in_groups, unfinished_text
from aha.rollout.cpu import Choice, CPUDecoder
from aha.rollout.cuda import StaticDecoder
from aha.rollout.hf import HFDecoder, refuse_unfit
from aha.rollout.sampler import StopStrings, sample, uniforms
from aha.types import Completion, Prompt, RunFailure

# Waiting prompts are read once this share of the cache is free.
_ENTER_SHARE = 0.125

_Written = tuple[tuple[int, ...], tuple[float, ...], Literal["stop", "length"] | None]


class NativeEngine:
    """Generates with the policy in place. `blocks` are its fused blocks, None for other models.

    `max_rows` bounds the completions in the cache at a time. It is halved when memory runs out.
    On a CPU, adapters are folded into a copy of the weights for each call if that only rounds.
    `dtype` is the type of products, as under autocast in training. If it is not the weights' type,
    the linear layers are copied for each call: a GPU would take twice as long to read float32.
    `decoding` is the result of `aha.rollout.cpu.choose`; by default the kernels run if they can.
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
        # Tokens are drawn on this device, in float64, which an Apple GPU does not have.
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
                rollout = None  # frees its cache before the next try
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
        """Every row's tokens so far, after each step or burst of steps of `generate`.

        The last item is the result of `generate`. If memory runs out, all rows start again.
        """
        with self._without_training():
            while True:
                rollout = None  # frees its cache before the next try
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
        # Quantised layers compute something else in eval mode than in training.
        self._model.train(getattr(self._model, "is_quantized", False))
        try:
            yield
        finally:
            self._model.train(was_training)

    def _take_fewer_rows(self, error: RuntimeError, rows: int) -> None:
        """Halve `max_rows` after memory ran out. A row's tokens do not depend on it.

        Errors: any other `error`; RunFailure when one row at a time is too much already.
        """
        if not is_out_of_memory(error):
            raise error
        rows = min(self._max_rows, rows)
        if rows <= 1:
            raise RunFailure(
                "out of memory in the rollout with one group of completions at a time; what helps: "
                "a smaller generation.max_completion_length or num_generations, a smaller model."
            )
        self._max_rows = rows // 2

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
        texts = self._tokenizer.batch_decode([ids for ids, _, _ in rows], skip_special_tokens=True)
        return [
            Partial(text if reason else unfinished_text(text), ids, logprobs, reason)
            for text, (ids, logprobs, reason) in zip(texts, rows, strict=True)
        ]


class _Rollout:
    """One call of `generate`: B = prompts * G rows, R of them live, in the decoder's order.

    Row b belongs to prompt b // G and draws from a random stream of its own, so its tokens do not
    depend on the time it entered or on the other rows.
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
        # A burst draws from the whole distribution, and only an end token ends a row in it.
        s = settings
        plain = s.top_p == 1 and s.top_k == 0 and s.min_p == 0 and stops is None
        self._burst_tokens = decoder.burst_tokens if plain else 0
        self._entered = 0
        self._row_R = torch.empty(0, dtype=torch.long, device=device)
        self._position_R = torch.empty(0, dtype=torch.long, device=device)
        self._lengths_B = torch.full((len(uniforms_BT),), 0, device=device)
        self._stopped_B = torch.zeros(len(uniforms_BT), dtype=torch.bool, device=device)
        # For each step: the rows, their tokens and the tokens' log-probabilities.
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self, max_prompts: int) -> None:
        """Write until every row has ended, at most `max_prompts` groups of rows at a time."""
        for _ in self.steps(max_prompts):
            pass

    def steps(self, max_prompts: int) -> Iterator[None]:
        """Like `run`, but stop after every step or burst, so that a caller can look."""
        tokens_R = torch.empty(0, dtype=torch.long, device=self._row_R.device)
        for count in itertools.count():
            # `tokens_R`: the newest token of every live row, which is not in the cache yet.
            if len(tokens_R) and self._burst_tokens:
                tokens_R = self._burst(tokens_R)
            elif len(tokens_R):
                tokens_R = self._write(self._decoder.step(tokens_R))
            if count % self._decoder.stride == 0:
                tokens_R = self._admit(self._leave(tokens_R), max_prompts)
            yield
            if not len(tokens_R) and self._entered == len(self._prompts):
                return

    def _burst(self, tokens_R: Tensor) -> Tensor:
        """Draw and record one burst of tokens for every live row; the last token of each."""
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
        """Each row's tokens so far, their log-probabilities, and the reason of its end if any."""
        row_N = torch.cat([row for row, _, _ in self._steps])
        # Stable: a row's tokens stay in the order in which they were written.
        order_N = row_N.argsort(stable=True)
        tokens = torch.cat([tokens for _, tokens, _ in self._steps])[order_N].tolist()
        logprobs = torch.cat([chosen for _, _, chosen in self._steps])[order_N].tolist()
        counts = torch.bincount(row_N, minlength=len(self._lengths_B)).tolist()
        lengths, stopped = self._lengths_B.tolist(), self._stopped_B.tolist()
        rows, start = [], 0
        for b, count in enumerate(counts):
            # An ended row writes on until it leaves. Those tokens are cut off here.
            end = start + (lengths[b] or count)
            ended: Literal["stop", "length"] = "stop" if stopped[b] else "length"
            reason = ended if lengths[b] else None
            rows.append((tuple(tokens[start:end]), tuple(logprobs[start:end]), reason))
            start += count
        return rows

    def _admit(self, tokens_R: Tensor, max_prompts: int) -> Tensor:
        """Read waiting prompts where there is room and draw their first tokens, after the others'.

        Several prompts at a time are read faster, so live rows wait until a share of the cache is
        free.
        """
        free = max_prompts - -(-len(self._row_R) // self._num_generations)
        first, last = self._entered, min(self._entered + free, len(self._prompts))
        fits = self._decoder.can_join and free >= _ENTER_SHARE * max_prompts
        if first == last or (len(tokens_R) and not fits):
            return tokens_R
        logits_RV = self._decoder.add(self._prompts[first:last], self._num_generations)
        self._entered = last
        live_R, position_R, size = self._row_R, self._position_R, self._num_generations
        self._row_R = torch.arange(first * size, last * size, device=live_R.device)
        self._position_R = torch.zeros_like(self._row_R)
        new_R = self._write(logits_RV)
        self._row_R = torch.cat((live_R, self._row_R))
        self._position_R = torch.cat((position_R, self._position_R))
        return self._leave(torch.cat((tokens_R, new_R)))

    def _write(self, logits_RV: Tensor) -> Tensor:
        """Draw and record a token for every row of `logits_RV`, and note the rows that end.

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
        """Drop ended rows if enough of them ended; the tokens of the rows that stay."""
        going_R = self._lengths_B[self._row_R] == 0
        live, ended = len(going_R), len(going_R) - int(going_R.sum())
        # An ended row must not outgrow its place in the cache.
        full = ended and int(self._position_R.max()) >= self._settings.max_completion_length
        at_once = full or self._burst_tokens > 0
        if not ended or not (at_once or ended >= self._decoder.leave_share * live):
            return tokens_R
        kept_K = going_R.nonzero().squeeze(1)
        self._decoder.keep(kept_K)
        self._row_R, self._position_R = self._row_R[kept_K], self._position_R[kept_K]
        return tokens_R[kept_K]


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a completion, from the generation config and the tokenizer."""
    config = getattr(model, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    ids = {declared} if isinstance(declared, int) else set(declared or ())
    if tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    return ids
