"""A recipe as arguments of TRL's GRPOConfig, and what must hold before anything loads. No torch.

Left out: TRL's objectives and regularisers that a recipe has no key for; they stay off.
"""

from __future__ import annotations

import json
import os
import socket
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aha.recipe import Recipe, require_trainable
from aha.sections import TrlSection
from aha.trl.mapping import refuse
from aha.trl.plan import BatchPlan, batch_plan
from aha.types import UserError

# A main process that evaluates or scores keeps the others waiting for as long as that takes.
COLLECTIVE_TIMEOUT_S = 7 * 24 * 3600
_TRL = "1.16"
_PACKAGES = {
    "colocate": ("vllm", "trl.vllm is 'colocate'"),
    "server": ("vllm", "trl.vllm is 'server'"),
    "kernels": ("kernels", "trl.use_kernels is true"),
    "deepspeed": ("deepspeed", "trl.deepspeed is set"),
}


def trl_section(recipe: Recipe) -> TrlSection:
    """The recipe's `trl` section, or its defaults."""
    return recipe.trl or TrlSection()


def processes() -> int:
    """How many processes a launcher started for this run: WORLD_SIZE, 1 without one.

    Errors: UserError when that is no number.
    """
    found = os.environ.get("WORLD_SIZE", "1")
    if not found.isdecimal() or int(found) < 1:
        raise UserError(f"WORLD_SIZE is {found!r}; a launcher sets it to a count of processes.")
    return int(found)


def asked_for_fsdp() -> bool:
    """Whether the launcher told accelerate to shard by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check(recipe: Recipe, count: int) -> BatchPlan:
    """What can be said before anything loads; the plan on `count` processes, micro-batches aside.

    Errors: UserError naming the key that TRL cannot honour, a package that is missing, a count of
    processes that does not divide, or settings that do not go together.
    """
    refuse(recipe)
    _refuse_together(recipe)
    section = trl_section(recipe)
    if count % section.vllm_tensor_parallel_size:
        raise UserError(
            f"trl.vllm_tensor_parallel_size is {section.vllm_tensor_parallel_size}; it must divide "
            f"the number of processes, {count}."
        )
    plan = batch_plan(recipe.grpo.prompts_per_step, recipe.generation.num_generations, count)
    _require_packages(section)
    if section.deepspeed is not None:
        check_deepspeed(read_deepspeed(section.deepspeed), "trl.deepspeed")
    return plan


def _refuse_together(recipe: Recipe) -> None:
    """Pairs of settings that TRL would take and not honour."""
    generation, grpo, model = recipe.generation, recipe.grpo, recipe.model
    if generation.stop and grpo.mask_truncated_completions:
        raise UserError(
            "grpo.mask_truncated_completions is true and generation.stop is set; with engine trl "
            "allowed is one of them: TRL takes a completion that a stop string ended for cut off."
        )
    require_trainable(recipe)
    if model.quantization == "int8" and trl_section(recipe).vllm == "colocate":
        raise UserError(
            "model.quantization is 'int8'; with trl.vllm colocate allowed are 'none' and 'nf4': "
            "vLLM does not take int8 weights from the policy."
        )


def _require_packages(section: TrlSection) -> None:
    wanted: list[str] = [section.vllm] if section.vllm != "off" else []
    wanted += ["kernels"] if section.use_kernels else []
    wanted += ["deepspeed"] if section.deepspeed is not None else []
    for name in wanted:
        package, why = _PACKAGES[name]
        if find_spec(package) is None:
            raise UserError(f"{why}, which needs the package {package.replace('_', '-')}.")


def vllm_server_dtype(recipe: Recipe) -> str:
    """`--dtype` of a vLLM server for this recipe, on whatever GPU it will stand.

    What the recipe says of its own type; else `auto`, which is half precision there, as the
    policy's products are.
    """
    model = recipe.model
    if "bfloat16" in (model.dtype, model.autocast):
        return "bfloat16"
    # Frozen weights without a type of their own are in half precision on a GPU.
    says = model.autocast == "none" and (model.dtype != "auto" or recipe.lora is None)
    return "float32" if says else "auto"


def require_vllm_server(section: TrlSection, seconds: float = 240.0) -> None:
    """Wait for the vLLM server to listen. Errors: UserError when it does not in that time."""
    if section.vllm != "server":
        return
    address = (section.vllm_server_host, section.vllm_server_port)
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"trl.vllm is 'server', and at {address[0]}:{address[1]} nothing listened for "
                    f"{seconds:.0f} s ({error}); start it, or set trl.vllm_server_host and "
                    "trl.vllm_server_port."
                ) from None
        time.sleep(1)


def require_trl() -> None:
    """Errors: UserError when TRL is not installed, or is one whose insides are not known."""
    if find_spec("trl") is None or find_spec("accelerate") is None:
        raise UserError(
            "engine is 'trl', which is not installed: pip install 'aha-zero[trl]' with Python 3.11 "
            "or newer."
        )
    found = version("trl")
    if not found.startswith(f"{_TRL}."):
        raise UserError(
            f"engine is 'trl', and TRL {found} is installed; allowed is {_TRL}, whose insides this "
            f"is written for: pip install 'trl=={_TRL}.*'."
        )


def read_deepspeed(path: str) -> dict[str, Any]:
    """A DeepSpeed configuration. Errors: UserError for a file that is none."""
    try:
        found = json.loads(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"trl.deepspeed: {path!r} cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f"trl.deepspeed: {path!r} is not a JSON object.")
    return found


def check_deepspeed(found: dict[str, Any], where: str) -> None:
    """Errors: UserError for settings that would replace the recipe's, or save no weights."""
    if "scheduler" in found:
        raise UserError(
            f"{where} has a scheduler, which would replace the recipe's; leave it out of the file."
        )
    zero = found.get("zero_optimization") or {}
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError(
            f"{where} shards the weights (stage 3) and its checkpoints would hold none that "
            "transformers loads; set stage3_gather_16bit_weights_on_model_save to true."
        )


def config_arguments(
    recipe: Recipe, plan: BatchPlan, folder: Path, bf16: bool, on_cpu: bool, longest_prompt: int
) -> dict[str, Any]:
    """Arguments of GRPOConfig; `longest_prompt` in tokens, `folder` for what TRL writes.

    An optimizer step of TRL is one of the recipe's `num_iterations` updates, so TRL counts
    `max_steps * num_iterations` of them.
    """
    return {
        "output_dir": str(folder),
        "use_cpu": on_cpu,
        "bf16": bf16,
        **_batch(recipe, plan),
        **_objective(recipe),
        **_optimizer(recipe),
        **_sampling(recipe, longest_prompt),
        **_SILENT,
    }


# What aha does itself, or has no key for.
_SILENT: dict[str, Any] = {
    "shuffle_dataset": False,
    "remove_unused_columns": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "log_level": "error",
    "log_level_replica": "error",
    # A sampler with dropout would draw from another distribution than the trainer scores.
    "disable_dropout": True,
    # The objective is the recipe's alone, also for mixtures of experts.
    "router_aux_loss_coef": 0.0,
    "use_cache": True,
    "ddp_timeout": COLLECTIVE_TIMEOUT_S,
}


def _batch(recipe: Recipe, plan: BatchPlan) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "steps_per_generation": plan.gradient_accumulation_steps,
        "num_generations": recipe.generation.num_generations,
        "num_iterations": recipe.grpo.num_iterations,
        "max_steps": recipe.train.max_steps * recipe.grpo.num_iterations,
        "seed": recipe.train.seed,
        "gradient_checkpointing": recipe.train.gradient_checkpointing,
    }


def _objective(recipe: Recipe) -> dict[str, Any]:
    grpo = recipe.grpo
    return {
        "beta": grpo.beta,
        "use_bias_correction_kl": grpo.use_bias_correction_kl,
        "epsilon": grpo.epsilon,
        "epsilon_high": grpo.epsilon_high,
        # A mean over the step's tokens: TRL's bnpo would take it over each micro-batch.
        "loss_type": "dapo" if grpo.loss_type == "bnpo" else grpo.loss_type,
        "scale_rewards": grpo.scale_rewards,
        "mask_truncated_completions": grpo.mask_truncated_completions,
        "reward_weights": [reward.weight for reward in recipe.rewards],
    }


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    settings, section = recipe.optimizer, trl_section(recipe)
    deepspeed = section.deepspeed
    return {
        "optim": "adamw_torch_fused",
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": settings.weight_decay,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "adam_epsilon": settings.adam_epsilon,
        "max_grad_norm": settings.max_grad_norm,
        **({} if deepspeed is None else {"deepspeed": str(Path(os.path.expanduser(deepspeed)))}),
    }


def _sampling(recipe: Recipe, longest_prompt: int) -> dict[str, Any]:
    generation, section = recipe.generation, trl_section(recipe)
    arguments: dict[str, Any] = {
        "max_completion_length": generation.max_completion_length,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "top_k": generation.top_k,
        "min_p": generation.min_p or None,
        "generation_kwargs": None,
        "use_vllm": section.vllm != "off",
    }
    if section.vllm == "off":
        return arguments
    arguments |= {
        "vllm_mode": section.vllm,
        "vllm_importance_sampling_correction": True,
        "vllm_max_model_length": longest_prompt + generation.max_completion_length,
        "generation_kwargs": {"stop": list(generation.stop)} if generation.stop else None,
    }
    if section.vllm == "server":
        return arguments | {
            "vllm_server_host": section.vllm_server_host,
            "vllm_server_port": section.vllm_server_port,
        }
    return arguments | {
        "vllm_gpu_memory_utilization": section.vllm_gpu_memory_utilization,
        "vllm_tensor_parallel_size": section.vllm_tensor_parallel_size,
        "vllm_enable_sleep_mode": section.vllm_enable_sleep_mode,
    }
