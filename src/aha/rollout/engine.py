"""The native engine: rollouts inside the training process, on the policy's own weights.

No copy of the weights is kept between calls, so nothing must be synchronised, and the sampler
computes the trainer's log-probabilities up to rounding (`logprob_gap` logs the largest difference).
At most `max_rows` completions are in the cache. Finished ones leave it, and waiting prompts enter.
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

from aha.model.free_memory import is_out_of_memory
from aha.model.llama import LlamaBlocks, blocks_of
from aha.model.load import require_positions
from aha.model.lora import cast_copy, folded
from aha.rollout.base import Decoder, Partial, SamplingSettings, unfinished_text
from aha.rollout.cpu import Choice, CPUDecoder
from aha.rollout.cuda import BlocksDecoder
from aha.rollout.hf import HFDecoder, refuse_unfit
from aha.rollout.sampler import StopStrings, sample, uniforms
from aha.types import Completion, Prompt, RunFailure

# Waiting prompts are read once this share of the cache is free.
_ENTER_SHARE = 0.125


class NativeEngine:
    """Generates with the policy in place. `blocks` are its fused blocks, None for other models.

    `max_rows` is halved when memory runs out. Each call decodes the model that `folded` returns.
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
        declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        end_ids = {declared} if isinstance(declared, int) else set(declared or ())
        if tokenizer.eos_token_id is not None:
            end_ids.add(tokenizer.eos_token_id)
        self._end_ids = torch.tensor(sorted(end_ids), device=device)
        if blocks is None:
            with self._without_training():
                refuse_unfit(model)

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
        limits: Sequence[int] | None = None,
    ) -> list[tuple[Completion, ...]]:
        """See `aha.rollout.base.Engine`. `limits`: each prompt's own, at most the settings'."""
        (groups,) = self.stream(prompts, num_generations, settings, seed, False, limits)
        return [tuple(partial.completion for partial in group) for group in groups]

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
        every_step: bool = True,
        limits: Sequence[int] | None = None,
    ) -> Generator[list[tuple[Partial, ...]], None, None]:
        """Every prompt's rows so far, after each step or burst of steps, or only when all ended.

        The last item is the result of `generate`. If memory runs out, all rows start again.
        Errors: RunFailure if one row at a time takes too much memory.
        """
        num_rows, limit = len(prompts) * num_generations, settings.max_completion_length
        longest_prompt = max(len(prompt.token_ids) for prompt in prompts)
        require_positions(self._model.config, longest_prompt, limit)
        limit_P = torch.tensor([limit] * len(prompts) if limits is None else limits)
        with self._without_training():
            while True:
                rollout = None  # frees its cache before the next try
                try:
                    slots = min(max(self._max_rows, num_generations), num_rows)
                    rollout = _Rollout(
                        self._new_decoder(slots, longest_prompt + limit),
                        [prompt.token_ids for prompt in prompts],
                        num_generations,
                        max(1, self._max_rows // num_generations),
                        settings,
                        limit_P.repeat_interleave(num_generations),
                        uniforms(seed, range(num_rows), limit),
                        self._end_ids[:0] if settings.ignore_end else self._end_ids,
                        StopStrings(self._tokenizer, settings.stop) if settings.stop else None,
                    )
                    for finished in rollout.steps():
                        if every_step or finished:
                            rows = rollout.partials(self._tokenizer)
                            starts = range(0, num_rows, num_generations)
                            yield [tuple(rows[b : b + num_generations]) for b in starts]
                    return
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    # A row's tokens do not depend on the number of rows beside it.
                    fewer = min(self._max_rows, num_rows) // 2
                    if fewer == 0:
                        raise RunFailure(
                            "out of memory in the rollout with one group of completions at a time; "
                            "what helps: a smaller generation.max_completion_length or "
                            "num_generations, a smaller model."
                        ) from error
                    self._max_rows = fewer

    @contextmanager
    def _without_training(self) -> Iterator[None]:
        was_training = self._model.training
        # Quantised layers compute something else in eval mode than in training.
        self._model.train(getattr(self._model, "is_quantized", False))
        try:
            yield
        finally:
            self._model.train(was_training)

    def _new_decoder(self, rows: int, longest: int) -> Decoder:
        model, blocks = folded(self._model), self._blocks
        if model is not self._model:
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
        return decoder or BlocksDecoder(blocks, rows, longest, autocast=autocast, graphs=graphs)


@dataclass
class _Rollout:
    """One call of `generate`: B = prompts * G rows, of which R are live, in the decoder's order.

    Row b belongs to prompt b // G and draws from a random stream of its own, so its tokens do not
    depend on the time it entered or on the other rows. At most `max_prompts` groups of rows are
    live at a time.
    """

    decoder: Decoder
    prompts: Sequence[Sequence[int]]
    num_generations: int
    max_prompts: int
    settings: SamplingSettings
    limit_B: Tensor
    uniforms_BT: Tensor
    end_ids: Tensor
    stops: StopStrings | None

    def __post_init__(self) -> None:
        settings, device = self.settings, self.end_ids.device
        self.uniforms_BT, self.limit_B = self.uniforms_BT.to(device), self.limit_B.to(device)
        # A burst draws from the whole distribution, and only an end token ends a row in it.
        narrowed = settings.top_p < 1 or settings.top_k > 0 or settings.min_p > 0
        drawn_whole = not narrowed and self.stops is None
        self._burst_tokens = self.decoder.burst_tokens if drawn_whole else 0
        self._entered = 0  # prompts that the decoder has read
        # Each live row's number, its tokens so far, and the newest, which is not in the cache yet.
        self._row_R = torch.empty(0, dtype=torch.long, device=device)
        self._position_R = torch.empty(0, dtype=torch.long, device=device)
        self._token_R = torch.empty(0, dtype=torch.long, device=device)
        # Each row's number of tokens when it ended, 0 before; true if it ended by itself.
        self._lengths_B = torch.zeros(len(self.uniforms_BT), dtype=torch.long, device=device)
        self._stopped_B = torch.zeros(len(self.uniforms_BT), dtype=torch.bool, device=device)
        # For each step: the rows, their tokens and the tokens' log-probabilities.
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def steps(self) -> Iterator[bool]:
        """Write until every row has ended. Yields after each step or burst; true for the last."""
        for count in itertools.count():
            if len(self._row_R) and self._burst_tokens:
                self._burst()
            elif len(self._row_R):
                self._draw(self.decoder.step(self._token_R))
            if count % self.decoder.stride == 0:
                self._leave()
                self._admit()
            finished = not len(self._row_R) and self._entered == len(self.prompts)
            yield finished
            if finished:
                return

    def _leave(self) -> None:
        """Drop ended rows if enough of them ended."""
        going_R = self._lengths_B[self._row_R] == 0
        live, ended = len(going_R), len(going_R) - int(going_R.sum())
        # An ended row must not outgrow its place in the cache.
        full = ended and int(self._position_R.max()) >= self.settings.max_completion_length
        at_once = full or self._burst_tokens > 0
        if not ended or not (at_once or ended >= self.decoder.leave_share * live):
            return
        kept_K = going_R.nonzero().squeeze(1)
        self.decoder.keep(kept_K)
        self._row_R, self._position_R = self._row_R[kept_K], self._position_R[kept_K]
        self._token_R = self._token_R[kept_K]

    def _admit(self) -> None:
        """Read waiting prompts where there is room, and draw the first tokens of their rows.

        Several prompts at a time are read faster, so while rows are live the others wait until a
        share of the cache is free.
        """
        row_R, position_R, token_R = self._row_R, self._position_R, self._token_R
        size = self.num_generations
        free = self.max_prompts - -(-len(row_R) // size)
        first, last = self._entered, min(self._entered + free, len(self.prompts))
        fits = self.decoder.can_join and free >= _ENTER_SHARE * self.max_prompts
        if first == last or (len(row_R) and not fits):
            return
        logits_RV = self.decoder.add(self.prompts[first:last], size)
        self._entered = last
        self._row_R = torch.arange(first * size, last * size, device=row_R.device)
        self._position_R = torch.zeros_like(self._row_R)
        self._draw(logits_RV)
        self._row_R = torch.cat((row_R, self._row_R))
        self._position_R = torch.cat((position_R, self._position_R))
        self._token_R = torch.cat((token_R, self._token_R))
        self._leave()

    def _draw(self, logits_RV: Tensor) -> None:
        """Draw every live row's next token. Only stop strings make this wait for a GPU."""
        limit, row_R = self.settings.max_completion_length, self._row_R
        uniforms_R = self.uniforms_BT[row_R, self._position_R.clamp(max=limit - 1)]
        self._token_R, logprobs_R = sample(logits_RV.to(row_R.device), uniforms_R, self.settings)
        self._steps.append((row_R, self._token_R, logprobs_R))
        self._position_R = self._position_R + 1
        ended_R = (self._token_R[:, None] == self.end_ids).any(dim=1)
        if self.stops is not None:
            ended_R |= self.stops.reached(row_R, self._token_R)
        length_R = self._lengths_B[row_R]
        new_R = (ended_R | (self._position_R == self.limit_B[row_R])) & (length_R == 0)
        self._lengths_B[row_R] = torch.where(new_R, self._position_R, length_R)
        self._stopped_B[row_R] |= ended_R & new_R

    def _burst(self) -> None:
        """As `_draw`, but the decoder draws several tokens for every live row at once."""
        row_R, limit = self._row_R, self.settings.max_completion_length
        steps = min(self._burst_tokens, limit - int(self._position_R.min()))
        column_RS = self._position_R[:, None] + torch.arange(steps)
        drawn = self.decoder.burst(
            self._token_R,
            self.uniforms_BT[row_R[:, None], column_RS.clamp(max=limit - 1)],
            self.limit_B[row_R] - self._position_R,
            self.end_ids,
            self.settings.temperature,
        )
        real_RS = torch.arange(steps) < drawn.written_R[:, None]
        rows_N = row_R[:, None].expand(-1, steps)[real_RS]
        self._steps.append((rows_N, drawn.tokens_RS[real_RS], drawn.logprobs_RS[real_RS]))
        self._position_R = self._position_R + drawn.written_R
        over_R = drawn.ended_R | (self._position_R == self.limit_B[row_R])
        self._lengths_B[row_R] = torch.where(over_R, self._position_R, self._lengths_B[row_R])
        self._stopped_B[row_R] = drawn.ended_R
        self._token_R = drawn.tokens_RS.gather(1, drawn.written_R[:, None] - 1).squeeze(1)

    def partials(self, tokenizer: PreTrainedTokenizerBase) -> list[Partial]:
        """Every row's text and tokens so far, in the order of the prompts."""
        row_N = torch.cat([row for row, _, _ in self._steps])
        # Stable: a row's tokens stay in the order in which they were written.
        order_N = row_N.argsort(stable=True)
        tokens = torch.cat([tokens for _, tokens, _ in self._steps])[order_N].tolist()
        logprobs = torch.cat([chosen for _, _, chosen in self._steps])[order_N].tolist()
        counts = torch.bincount(row_N, minlength=len(self._lengths_B)).tolist()
        lengths, stopped = self._lengths_B.tolist(), self._stopped_B.tolist()
        starts = [0, *itertools.accumulate(counts)]
        # An ended row writes on until it leaves. Those tokens are cut off here.
        cuts = [slice(a, a + (n or c)) for a, n, c in zip(starts, lengths, counts, strict=False)]
        texts = tokenizer.batch_decode([tokens[cut] for cut in cuts], skip_special_tokens=True)
        rows = []
        for b, (cut, text) in enumerate(zip(cuts, texts, strict=True)):
            reason: Literal["stop", "length"] | None = None
            if lengths[b]:
                reason = "stop" if stopped[b] else "length"
            else:
                text = unfinished_text(text)
            rows.append(Partial(text, tuple(tokens[cut]), tuple(logprobs[cut]), reason))
        return rows
