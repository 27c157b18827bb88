"""What a run is made of before TRL has a part in it: problems, rewards, tokenizer, policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from aha.model.free_memory import free_memory
from aha.model.load import (
    choose_device,
    choose_dtype,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    product_dtype,
    require_fast_bfloat16,
    require_positions,
)
from aha.model.lora import is_adapter, lora_config
from aha.model.sizes import Pass, Widths, kept_per_token, logits_per_token
from aha.recipe import Recipe
from aha.rewards.score import WeightedReward, rewards_of, try_rewards
from aha.tasks import load_problems
from aha.tasks.prompts import ask
from aha.train.memory import token_budget
from aha.train.schedule import ProblemStream
from aha.trl.config import asked_for_fsdp, trl_section
from aha.types import Problem, UserError


@dataclass(frozen=True)
class Materials:
    """Everything of a run that its recipe alone decides; `longest_prompt` is in tokens."""

    recipe: Recipe
    rewards: tuple[WeightedReward, ...]
    problems: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    stream: ProblemStream
    tokenizer: PreTrainedTokenizerBase
    longest_prompt: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """The model for TRL, loaded or by its place, and the adapters that TRL is to put on it."""

    model: PreTrainedModel | str
    adapters: LoraConfig | None

    @property
    def has_experts(self) -> bool:
        config = getattr(self.model, "config", None)
        return config is not None and hasattr(config.get_text_config(), "output_router_logits")


def load_materials(recipe: Recipe) -> Materials:
    """Rewards, problems and tokenizer. Errors: UserError for what cannot be had."""
    require_fast_bfloat16(recipe.model)
    rewards = rewards_of(recipe)
    found = load_problems(recipe.task, "train", recipe.task.num_train)
    held_out: tuple[Problem, ...] = ()
    if recipe.evaluation.n:
        held_out = load_problems(recipe.task, "test", recipe.evaluation.n).problems
    _require_reference(recipe)
    tokenizer: Any = load_tokenizer(recipe.model)
    stream = ProblemStream(found.problems, recipe.grpo.prompts_per_step, recipe.train.seed)
    drawn = _drawn(recipe, found.problems, stream)
    prompts = ask(drawn, recipe, tokenizer)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    require_positions(load_config(recipe.model), longest, recipe.generation.max_completion_length)
    try_rewards(rewards, drawn[0], prompts[0], tokenizer.encode)
    return Materials(
        recipe=recipe,
        rewards=rewards,
        problems=found.problems,
        held_out=held_out,
        stream=stream,
        tokenizer=tokenizer,
        longest_prompt=longest,
        notes=tuple(filter(None, [found.losses()])),
    )


def _drawn(recipe: Recipe, problems: Sequence[Problem], stream: ProblemStream) -> Sequence[Problem]:
    """The problems that the run will draw, each once."""
    if recipe.train.max_steps * recipe.grpo.prompts_per_step >= len(problems):
        return problems
    steps = range(1, recipe.train.max_steps + 1)
    return [problem for step in steps for problem in stream.at(step)]


def _require_reference(recipe: Recipe) -> None:
    """TRL loads the reference from the model's name, which says nothing of an adapter on it."""
    place = Path(find_model(recipe.model.name))
    if recipe.grpo.beta and recipe.lora is None and is_adapter(place):
        raise UserError(
            f"grpo.beta is {recipe.grpo.beta:g} and model.name {recipe.model.name!r} is an "
            "adapter; with engine trl export it first (`aha export`), or train adapters: --set "
            "lora={}."
        )


def load_policy(recipe: Recipe, arguments: Any) -> Policy:
    """The policy as natively, but where TRL places it: on the CPU, unless it is quantised.

    Where it is to be sharded while it loads, its place, and how TRL must load it goes into
    `arguments`. Errors: UserError as the native engine's, or for what cannot be sharded.
    """
    model = _load(recipe, arguments)
    if recipe.lora is None:
        return Policy(model, None)
    if isinstance(model, str):
        with loading_whole(arguments):
            return Policy(model, lora_config(_empty_model(recipe), recipe.lora))
    return Policy(model, lora_config(model, recipe.lora))


def _load(recipe: Recipe, arguments: Any) -> PreTrainedModel | str:
    section, frozen = recipe.model, recipe.lora is not None
    dtype = "bfloat16" if choose_dtype(section, frozen) == torch.bfloat16 else "float32"
    if asked_for_fsdp() or is_deepspeed_zero3_enabled():
        arguments.model_init_kwargs = {
            "dtype": dtype,
            "attn_implementation": section.attn_implementation,
            "trust_remote_code": section.trust_remote_code,
            "use_kernels": trl_section(recipe).use_kernels,
            "device_map": None,
        }
        return _sharded_place(recipe)
    changes = {"dtype": dtype}
    if section.quantization == "none":
        changes["device"] = "cpu"
    model: Any = load_model(section.model_copy(update=changes), frozen=frozen)
    if trl_section(recipe).use_kernels:
        model.set_use_kernels(True)
    if section.quantization != "none" and model.device.type == "cuda":
        # accelerate compares devices by their numbers.
        model.hf_device_map = {"": torch.cuda.current_device()}
    return model


def _sharded_place(recipe: Recipe) -> str:
    place = find_model(recipe.model.name)
    if recipe.model.quantization != "none":
        raise UserError(
            f"model.quantization is {recipe.model.quantization!r}; with FSDP or DeepSpeed stage 3 "
            "allowed is 'none'."
        )
    if is_adapter(Path(place)):
        raise UserError(
            f"model.name {recipe.model.name!r} is an adapter; with FSDP or DeepSpeed stage 3 "
            "export it first (`aha export`)."
        )
    return place


def uses_bfloat16(recipe: Recipe) -> bool:
    """Whether TRL's mixed precision is on: for products in bfloat16, or weights that are."""
    return product_dtype(recipe) == torch.bfloat16


def rows_that_fit(recipe: Recipe, longest_prompt: int, neighbours: int) -> int:
    """Rows of a micro-batch: what train.tokens_per_microbatch holds, else from the free memory.

    TRL pads a row to the step's longest, so every row counts as long as it can be. `neighbours`
    processes share a CPU's memory; a GPU is each process's own.
    """
    row = longest_prompt + recipe.generation.max_completion_length
    tokens = recipe.train.tokens_per_microbatch or _tokens_that_fit(recipe, neighbours)
    return max(1, tokens // row)


def _tokens_that_fit(recipe: Recipe, neighbours: int) -> int:
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
    per_token = _bytes_per_token(recipe, model)
    return token_budget(Widths.of(model.config), per_token, free - loaded, trained, device.type)


def _bytes_per_token(recipe: Recipe, model: PreTrainedModel) -> int:
    """What TRL's forward pass keeps of a token."""
    item = next(model.parameters()).element_size()
    widths = Widths.of(model.config)
    how = Pass(
        fused=False,
        recompute=recipe.train.gradient_checkpointing,
        item=item,
        product_item=2 if uses_bfloat16(recipe) else item,
        adapter_casts=recipe.lora is not None and item == 2,
    )
    # Its head makes the logits of a few hundred tokens at a time.
    return kept_per_token(widths, how) - logits_per_token(widths, how)


def _empty_model(recipe: Recipe) -> PreTrainedModel:
    """The policy's sizes without its weights."""
    config, trusted = load_config(recipe.model), recipe.model.trust_remote_code
    with torch.device("meta"):
        dtype = choose_dtype(recipe.model, frozen=recipe.lora is not None)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)


@contextmanager
def loading_whole(arguments: Any) -> Iterator[None]:
    """Models are loaded whole while inside; DeepSpeed's stage 3 would have all processes load."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    held = getattr(arguments, "hf_deepspeed_config", None) or arguments.deepspeed_plugin.dschf
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(held)
