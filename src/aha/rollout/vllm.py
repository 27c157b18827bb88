"""Completions from vLLM's offline engine, for evaluations that take the native engine too long.

Left out: training with it (its weights are a copy of its own, and its log-probabilities are not
the trainer's), adapters, several GPUs. Written against the sources of vLLM 0.28 and 0.31, and run
with 0.31 on a CPU only (docs/evaluation.md).
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from transformers import PreTrainedTokenizerBase

from aha.rollout.base import SamplingSettings
from aha.types import Completion, Prompt, RunFailure, UserError
from aha.visible import first_line

# vLLM refuses hotter sampling, and is greedy below the least.
_LEAST_TEMPERATURE, _MAX_TEMPERATURE = 1e-5, 2.0
_FINISHED = ("stop", "length")


class VllmEngine:
    """See `aha.rollout.base.Engine`, with two differences.

    The kernels add up in an order that depends on the batch. `logprobs` are those of the draw,
    which top_p, top_k and min_p may narrow.
    """

    def __init__(
        self,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        dtype: str,
        trust_remote_code: bool = False,
    ) -> None:
        """`model` is a folder or a hub name, `dtype` float32 or bfloat16.

        Errors: UserError when vLLM is not installed, RunFailure when it cannot load the model.
        """
        try:
            self._vllm: Any = import_module("vllm")
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise UserError(
                "--engine is 'vllm', which is not installed: pip install 'aha-zero[vllm]', or use "
                "--engine native."
            ) from None
        self._tokenizer = tokenizer
        try:
            self._llm: Any = self._vllm.LLM(
                model=model,
                tokenizer=model,
                # By itself vLLM would turn float32 into float16.
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                # By default log-probabilities would be those before the temperature.
                logprobs_mode="processed_logprobs",
            )
        except (RuntimeError, ValueError) as error:
            raise RunFailure(f"vLLM could not load {model!r}: {first_line(error)}") from error

    def close(self) -> None:
        """Give the GPU's memory back, which vLLM does when its engine is collected."""
        self._llm = None
        gc.collect()

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        settings: SamplingSettings,
        seed: int,
    ) -> list[tuple[Completion, ...]]:
        """See `aha.rollout.base.Engine`. Errors: UserError for a temperature above 2."""
        if settings.temperature > _MAX_TEMPERATURE:
            raise UserError(
                f"the temperature is {settings.temperature:g}; with --engine vllm it must be at "
                f"most {_MAX_TEMPERATURE:g}."
            )
        # vLLM refuses several greedy completions of a prompt; they would all be the same.
        distinct = 1 if settings.temperature < _LEAST_TEMPERATURE else num_generations
        params = []
        for index in range(len(prompts)):
            # vLLM adds a completion's place to its prompt's seed, so neighbours must be far apart.
            digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
            params.append(
                self._vllm.SamplingParams(
                    n=distinct,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    top_k=settings.top_k,
                    min_p=settings.min_p,
                    max_tokens=settings.max_completion_length,
                    stop=list(settings.stop),
                    include_stop_str_in_output=True,
                    # So that a stop string may be a special token's, as in the native engine.
                    skip_special_tokens=False,
                    ignore_eos=settings.ignore_end,
                    logprobs=0,
                    seed=int.from_bytes(digest[:7], "big"),
                )
            )
        asked = [{"prompt_token_ids": list(prompt.token_ids)} for prompt in prompts]
        answers = self._llm.generate(asked, params, use_tqdm=False)
        groups = []
        for answer in answers:
            group: list[Completion] = []
            for output in answer.outputs:
                if output.finish_reason not in _FINISHED:
                    raise RunFailure(f"vLLM gave a completion up: {output.finish_reason}.")
                ids = tuple(output.token_ids)
                # Decoded here, as the native engine does: vLLM's own text goes on from the
                # prompt's, with its white space, and is cut inside the token that completes a stop
                # string.
                text = self._tokenizer.decode(list(ids), skip_special_tokens=True)
                steps = zip(ids, output.logprobs, strict=True)
                logprobs = tuple(float(step[token].logprob) for token, step in steps)
                group.append(Completion(text, ids, logprobs, output.finish_reason))
            groups.append(tuple(group) * (num_generations // distinct))
        return groups
