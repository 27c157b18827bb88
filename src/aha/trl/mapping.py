"""What becomes of every key of a recipe under `engine: trl`: a table, and nothing else.

Mapped keys become arguments of TRL's GRPOConfig or of what stands beside it. Keys that aha does
itself are honoured by the same code as natively. A refused key is one that neither can honour: any
value but the named ones is an error, so that no key is ever dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aha.recipe import Recipe
from aha.types import UserError


@dataclass(frozen=True)
class Mapped:
    """An argument of TRL's side, `to`, takes the key's value."""

    to: str


@dataclass(frozen=True)
class ByAha:
    """aha honours the key itself; `how` says where."""

    how: str


@dataclass(frozen=True)
class Refused:
    """Only `allowed` may stand there, for this `reason`."""

    allowed: tuple[Any, ...]
    reason: str


Entry = Mapped | ByAha | Refused

_NAMES = ByAha("names and describes the run directory")
_MODEL = ByAha("loads the policy with aha's own loader, which TRL is then given")
_LORA = Mapped("peft.LoraConfig")
_PROBLEMS = ByAha("draws the same problems in the same order: the sampler of TRL's data loader")
_PROMPTS = ByAha("writes and tokenizes the prompts; TRL's tokenizing is replaced")
_REWARDS = ByAha("scores the whole step at once, as natively, on the main process")
_SCHEDULE = ByAha("LambdaLR of the native engine's schedule, in place of TRL's")
_EVALUATION = ByAha("the native engine, on the main process")
_LOGGING = ByAha("aha's own record, observers and samples; TRL's are off")

KEYS: dict[str, Entry] = {
    "name": _NAMES,
    "description": _NAMES,
    "engine": ByAha("is why this table is read"),
    "model.name": _MODEL,
    "model.dtype": _MODEL,
    "model.autocast": Mapped("bf16"),
    "model.device": Mapped("use_cpu"),
    "model.attn_implementation": _MODEL,
    "model.trust_remote_code": _MODEL,
    "model.quantization": _MODEL,
    "lora.r": _LORA,
    "lora.alpha": _LORA,
    "lora.use_rslora": _LORA,
    "lora.target_modules": _LORA,
    "task.name": _PROBLEMS,
    "task.source": _PROBLEMS,
    "task.test_source": _PROBLEMS,
    "task.columns": _PROBLEMS,
    "task.num_train": _PROBLEMS,
    "task.data_seed": _PROBLEMS,
    "task.sizes": _PROBLEMS,
    "task.number_min": _PROBLEMS,
    "task.number_max": _PROBLEMS,
    "task.target_min": _PROBLEMS,
    "task.target_max": _PROBLEMS,
    "task.max_value": _PROBLEMS,
    "prompt.style": _PROMPTS,
    "prompt.format": _PROMPTS,
    "prompt.prefill": _PROMPTS,
    "prompt.system": _PROMPTS,
    "prompt.examples.problem": _PROMPTS,
    "prompt.examples.completion": _PROMPTS,
    "rewards.name": _REWARDS,
    "rewards.weight": Mapped("reward_weights"),
    "rewards.options": _REWARDS,
    "rewards.on_error": _REWARDS,
    "rewards.timeout_s": _REWARDS,
    "generation.num_generations": Mapped("num_generations"),
    "generation.max_completion_length": Mapped("max_completion_length"),
    "generation.temperature": Mapped("temperature"),
    "generation.top_p": Mapped("top_p"),
    "generation.top_k": Mapped("top_k"),
    "generation.min_p": Mapped("min_p"),
    "generation.stop": ByAha("the native engine's rule; vLLM is told them, to end there too"),
    "generation.max_rows": ByAha("calls the sampler with as many rows; vLLM sizes its own cache"),
    "grpo.prompts_per_step": Mapped("per_device_train_batch_size, gradient_accumulation_steps"),
    "grpo.num_iterations": Mapped("num_iterations"),
    "grpo.beta": Mapped("beta"),
    "grpo.use_bias_correction_kl": Mapped("use_bias_correction_kl"),
    "grpo.epsilon": Mapped("epsilon"),
    "grpo.epsilon_high": Mapped("epsilon_high"),
    "grpo.loss_type": Mapped("loss_type"),
    "grpo.scale_rewards": Mapped("scale_rewards"),
    "grpo.mask_truncated_completions": Mapped("mask_truncated_completions"),
    "grpo.dynamic_sampling": Refused(
        (False,), "TRL draws a step's prompts once, and cannot draw more for groups without signal"
    ),
    "grpo.max_sampling_rounds": ByAha("has no meaning without grpo.dynamic_sampling"),
    "optimizer.learning_rate": Mapped("learning_rate"),
    "optimizer.lr_scheduler_type": _SCHEDULE,
    "optimizer.warmup_ratio": _SCHEDULE,
    "optimizer.min_lr_ratio": _SCHEDULE,
    "optimizer.weight_decay": Mapped("weight_decay"),
    "optimizer.adam_beta1": Mapped("adam_beta1"),
    "optimizer.adam_beta2": Mapped("adam_beta2"),
    "optimizer.adam_epsilon": Mapped("adam_epsilon"),
    "optimizer.max_grad_norm": Mapped("max_grad_norm"),
    "train.max_steps": Mapped("max_steps"),
    "train.seed": Mapped("seed"),
    "train.save_steps": ByAha("asks TRL to save after these steps"),
    "train.save_total_limit": ByAha("removes older checkpoints once a new one is whole"),
    "train.save_in_background": Refused(
        (False,), "TRL's state is written by all processes together, between two steps"
    ),
    "train.max_hours": ByAha("stops all processes after the same step"),
    "train.max_skipped_steps": ByAha("drops a gradient that is not finite, and counts"),
    "train.gradient_checkpointing": Mapped("gradient_checkpointing"),
    "train.tokens_per_microbatch": Mapped("per_device_train_batch_size"),
    "evaluation.n": _EVALUATION,
    "evaluation.every": _EVALUATION,
    "evaluation.temperature": _EVALUATION,
    "logging.logging_steps": _LOGGING,
    "logging.console": _LOGGING,
    "logging.report_to": _LOGGING,
    "logging.project": _LOGGING,
    "logging.samples_steps": _LOGGING,
    "logging.samples_groups": _LOGGING,
    "logging.samples_successful_only": _LOGGING,
    "logging.samples_limit": _LOGGING,
    "logging.samples_print": _LOGGING,
    "logging.alerts_window": _LOGGING,
    "trl.vllm": Mapped("use_vllm, vllm_mode"),
    "trl.vllm_server_host": Mapped("vllm_server_host"),
    "trl.vllm_server_port": Mapped("vllm_server_port"),
    "trl.vllm_gpu_memory_utilization": Mapped("vllm_gpu_memory_utilization"),
    "trl.vllm_tensor_parallel_size": Mapped("vllm_tensor_parallel_size"),
    "trl.vllm_enable_sleep_mode": Mapped("vllm_enable_sleep_mode"),
    "trl.use_kernels": ByAha("asks transformers for them once the policy is loaded"),
    "trl.use_liger_kernel": Refused(
        (False,), "TRL deprecates it; trl.use_kernels takes the hub's kernels, Liger's among them"
    ),
    "trl.deepspeed": Mapped("deepspeed"),
}


def refuse(recipe: Recipe) -> None:
    """Errors: UserError naming the first key that cannot be honoured, and why."""
    for key, entry in KEYS.items():
        for value in _values(recipe, key.split(".")):
            if isinstance(entry, Refused) and value not in entry.allowed:
                allowed = ", ".join(repr(choice) for choice in entry.allowed)
                raise UserError(
                    f"{key} is {value!r}; with engine trl allowed is {allowed}: {entry.reason}."
                )


def _values(node: Any, path: list[str]) -> Iterator[Any]:
    """The value at a path, one for each item where there is a list on the way."""
    if node is None:
        return
    if isinstance(node, tuple) and path:
        for item in node:
            yield from _values(item, path)
    elif not path:
        yield node
    else:
        yield from _values(getattr(node, path[0]), path[1:])
