"""The objects that TRL's trainer is given: problems in order, rewards, prompts, ends, policy."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from torch.utils.data import Sampler
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)
from trl.generation import vllm_generation

from aha.model.free_memory import free_memory
from aha.model.kernels.decode import Widths
from aha.model.load import (
    choose_device,
    choose_dtype,
    find_model,
    load_config,
    load_model,
    product_dtype,
    require_positions,
)
from aha.model.lora import is_adapter, lora_config
from aha.model.sizes import Pass, kept_per_token, logits_per_token
from aha.recipe import Recipe
from aha.rollout.sampler import StopStrings
from aha.train.memory import token_budget
from aha.train.optimizer import moments_bytes
from aha.train.state import TrainingData, load_training_data
from aha.trl.config import asked_for_fsdp, trl_section
from aha.types import Completion, Group, Problem, Prompt, RunFailure, UserError


def load_data(recipe: Recipe) -> TrainingData:
    """The native engine's data. Errors: UserError also for settings that TRL cannot work with."""
    adapter = is_adapter(Path(find_model(recipe.model.name)))
    if recipe.grpo.beta and recipe.lora is None and adapter:
        # TRL would load the reference by the model's name, without the adapter.
        raise UserError(
            f"grpo.beta is {recipe.grpo.beta:g} and model.name {recipe.model.name!r} is an "
            "adapter; with engine trl export it first (`aha export`), or train adapters: --set "
            "lora={}."
        )
    # TRL must know the longest prompt before it starts.
    data = load_training_data(recipe, every_prompt=True)
    most = recipe.generation.max_completion_length
    require_positions(load_config(recipe.model), data.longest_prompt, most)
    return data


@dataclass(eq=False)
class StepSampler(Sampler[int]):
    """The native engine's problems in its order, as places in TRL's data set.

    A step's places stand `num_generations` times each, and all of them `repeats` times: TRL reads
    its loader once for every microbatch of every update, and uses the first reading. The whole run
    is one epoch to TRL, so on resumption it skips the steps that are done.
    """

    data: TrainingData
    repeats: int

    def __iter__(self) -> Iterator[int]:
        place = {problem.key: place for place, problem in enumerate(self.data.problems)}
        for step in range(1, self.data.recipe.train.max_steps + 1):
            keys = [problem.key for problem in self.data.stream.at(step)]
            num_generations = self.data.recipe.generation.num_generations
            yield from [place[key] for key in keys for _ in range(num_generations)] * self.repeats

    def __len__(self) -> int:
        recipe = self.data.recipe
        rows = recipe.grpo.prompts_per_step * recipe.generation.num_generations
        return recipe.train.max_steps * rows * self.repeats


class Endings:
    """Finds the end of a completion as the native engine does: an end token or a stop string.

    transformers' own stop strings fail on some tokenizers, such as the embedded model's.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Collection[int],
        stops: Sequence[str],
    ) -> None:
        self._end_ids = frozenset(end_ids)
        self._watch = StopStrings(tokenizer, stops) if stops else None

    def ending(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap transformers' `generate`, so that its rows also end with a stop string."""
        watch = self._watch
        if watch is None:
            return generate

        def stopped(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
            return watch.reached(torch.arange(len(input_ids)), input_ids[:, -1])

        def until_stop(*arguments: Any, **options: Any) -> Any:
            watch.forget()
            criteria = StoppingCriteriaList([stopped])
            return generate(*arguments, **options, stopping_criteria=criteria)

        return until_stop

    def cut(self, rows: Sequence[list[int]]) -> list[list[int]]:
        """The rows up to the token that completes a stop string, without padding after it."""
        watch = self._watch
        return list(rows) if watch is None else [row[: watch.end_of(row) or None] for row in rows]

    def stopped(self, rows: Sequence[Sequence[int]]) -> list[bool]:
        """True for each row that ended by itself, and not at the limit."""
        watch = self._watch
        return [
            row[-1] in self._end_ids or (watch is not None and watch.end_of(row) == len(row))
            for row in rows
        ]


def groups_of(
    rows: Sequence[tuple[str, Completion]],
    num_generations: int,
    problems: Mapping[str, Problem],
    prompt_of: Callable[[Problem], Prompt],
) -> list[Group]:
    """Groups without scores from rows of (problem's key, completion). Errors: RunFailure."""
    groups = []
    for first in range(0, len(rows), num_generations):
        keys, completions = zip(*rows[first : first + num_generations], strict=True)
        if len(set(keys)) > 1:
            raise RunFailure(f"rows {first} to {first + num_generations} are not of one problem.")
        problem = problems[keys[0]]
        groups.append(Group(problem, prompt_of(problem), completions))
    return groups


# The model, loaded or by its path, and the adapters that TRL is to put on it.
Policy = tuple[PreTrainedModel | str, LoraConfig | None]


def load_policy(recipe: Recipe, arguments: Any) -> Policy:
    """The policy and its adapters; `arguments` take what TRL must know of it.

    It is loaded on the CPU, unless it is quantised; if it is sharded while it loads, it is its
    path. Errors: UserError as the native engine's, or for a model that cannot be sharded.
    """
    arguments.ddp_find_unused_parameters = False
    section, frozen = recipe.model, recipe.lora is not None
    dtype = "bfloat16" if choose_dtype(section, frozen) == torch.bfloat16 else "float32"
    use_kernels = trl_section(recipe).use_kernels
    if asked_for_fsdp() or is_deepspeed_zero3_enabled():
        place = find_model(section.name)
        if section.quantization != "none":
            raise UserError(
                f"model.quantization is {section.quantization!r}; with FSDP or DeepSpeed stage 3 "
                "allowed is 'none'."
            )
        if is_adapter(Path(place)):
            raise UserError(
                f"model.name {section.name!r} is an adapter; with FSDP or DeepSpeed stage 3 "
                "export it first (`aha export`)."
            )
        arguments.model_init_kwargs = {
            "dtype": dtype,
            "attn_implementation": section.attn_implementation,
            "trust_remote_code": section.trust_remote_code,
            "use_kernels": use_kernels,
            "device_map": None,
        }
        if recipe.lora is None:
            return place, None
        with loading_whole(arguments):
            return place, lora_config(_empty_model(recipe), recipe.lora)
    changes = {"dtype": dtype} | ({"device": "cpu"} if section.quantization == "none" else {})
    model: Any = load_model(section.model_copy(update=changes), frozen=frozen)
    if use_kernels:
        model.set_use_kernels(True)
    if section.quantization != "none" and model.device.type == "cuda":
        # accelerate compares devices by their numbers.
        model.hf_device_map = {"": torch.cuda.current_device()}
    # In a mixture of experts, some may have no token in a step.
    has_experts = hasattr(model.config.get_text_config(), "output_router_logits")
    arguments.ddp_find_unused_parameters = has_experts
    return model, None if recipe.lora is None else lora_config(model, recipe.lora)


def rows_that_fit(recipe: Recipe, longest_prompt: int, neighbours: int) -> int:
    """Rows of a microbatch: as many as train.tokens_per_microbatch holds, else the free memory.

    TRL pads a row to the step's longest, so every row counts as long as it can be. `neighbours`
    processes share a CPU's memory; a GPU is each process's own.
    """
    row = longest_prompt + recipe.generation.max_completion_length
    if recipe.train.tokens_per_microbatch is not None:
        return max(1, recipe.train.tokens_per_microbatch // row)
    device, section = choose_device(recipe.model), trl_section(recipe)
    free = float(free_memory(device))
    if device.type == "cpu":
        free /= neighbours
    elif section.vllm == "colocate":
        total = torch.cuda.mem_get_info(device)[1]
        free -= section.vllm_gpu_memory_utilization * total
    model, frozen = _empty_model(recipe), recipe.lora is not None
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    loaded = weights * (2 if recipe.grpo.beta and not frozen else 1)
    trained = 0 if frozen else weights
    item, widths = next(model.parameters()).element_size(), Widths.of(model.config)
    how = Pass(
        fused=False,
        recompute=recipe.train.gradient_checkpointing,
        item=item,
        product_item=2 if product_dtype(recipe) == torch.bfloat16 else item,
        adapter_casts=frozen and item == 2,
    )
    state = recipe.optimizer.state
    grown = trained + moments_bytes(trained, item, state, device.type)
    # TRL's head makes the logits of a few hundred tokens at a time.
    per_token = kept_per_token(widths, how) - logits_per_token(widths, how)
    return max(1, token_budget(widths, per_token, free - loaded, grown, device.type) // row)


def _empty_model(recipe: Recipe) -> PreTrainedModel:
    """The policy's sizes without its weights."""
    config, trusted = load_config(recipe.model), recipe.model.trust_remote_code
    with torch.device("meta"):
        dtype = choose_dtype(recipe.model, frozen=recipe.lora is not None)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)


@contextmanager
def loading_whole(arguments: Any) -> Iterator[None]:
    """Load models whole in one process; under DeepSpeed's stage 3 all processes would have to."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    held = getattr(arguments, "hf_deepspeed_config", None) or arguments.deepspeed_plugin.dschf
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(held)


@contextmanager
def vllm_in(dtype: torch.dtype) -> Iterator[None]:
    """Give the vLLM that TRL starts in this process weights of this type.

    TRL has no setting for it where vLLM shares the trainer's GPUs, and vLLM takes half precision
    for weights in float32. A policy in float32 would then be drawn from another distribution.
    """
    started = getattr(vllm_generation, "LLM", None)
    if started is None:  # vLLM is not installed
        yield
        return
    vllm_generation.LLM = partial(started, dtype=str(dtype).removeprefix("torch."))
    try:
        yield
    finally:
        vllm_generation.LLM = started
