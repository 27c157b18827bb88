"""A recipe as arguments of TRL's GRPOConfig, and the checks before anything loads. No torch.

`keys.yaml` says for every key of a recipe if TRL takes it, aha honours it, or it is refused.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aha.recipe import Recipe, require_trainable
from aha.sections import VLLM_KEYS, TrlSection
from aha.types import UserError
from aha.visible import package_yaml

# A main process that evaluates or scores keeps the others waiting for as long as that takes.
COLLECTIVE_TIMEOUT_S = 7 * 24 * 3600
_TRL = "1.16"
_OPTIM = {"device": "adamw_torch_fused", "8bit": "adamw_bnb_8bit"}
# Each key of a recipe is `copied`, `mapped`, `by_aha` or `refused`; `fixed` are TRL's own.
KEYS: dict[str, Any] = package_yaml("aha.trl", "keys.yaml")


def refuse(recipe: Recipe) -> None:
    """Errors: UserError naming the first key that cannot be honoured, and why."""
    for key, reason in KEYS["refused"].items():
        section, name = key.split(".")[:2]
        found = getattr(recipe, section)
        if found is None:  # a recipe need not have the section `trl`
            continue
        value, default = getattr(found, name), type(found).model_fields[name].default
        if value != default:
            raise UserError(
                f"{section}.{name} is {value!r}; with engine trl allowed is {default!r}: {reason}."
            )


@dataclass(frozen=True)
class BatchPlan:
    """A step's rows by process and microbatch, under TRL's names.

    TRL gives every process as many rows, in order, and gathers rewards. So a group may lie across
    two processes, and `processes` must divide only the rows: prompts_per_step * num_generations.
    """

    processes: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int

    @property
    def rows(self) -> int:
        return self.processes * self.per_device_train_batch_size * self.gradient_accumulation_steps

    def __str__(self) -> str:
        count, micro = self.processes, self.gradient_accumulation_steps
        return (
            f"{self.rows} completions a step on {count} process{'es' if count > 1 else ''}: "
            f"{micro} microbatch{'es' if micro > 1 else ''} of "
            f"{self.per_device_train_batch_size} each"
        )


def batch_plan(recipe: Recipe, processes: int, rows_per_microbatch: int | None = None) -> BatchPlan:
    """The plan with the largest microbatches of at most `rows_per_microbatch` rows; None: any.

    Errors: UserError naming the counts of processes that would do when the rows cannot be shared.
    """
    prompts, generations = recipe.grpo.prompts_per_step, recipe.generation.num_generations
    rows = prompts * generations
    if rows % processes:
        *others, last = (str(n) for n in range(1, rows + 1) if rows % n == 0)
        raise UserError(
            f"grpo.prompts_per_step ({prompts}) times generation.num_generations "
            f"({generations}) is {rows} completions a step, which {processes} processes "
            f"cannot share evenly; counts that would do: {', '.join(others)} or {last}."
        )
    share = rows // processes
    most = share if rows_per_microbatch is None else max(1, rows_per_microbatch)
    micro = max(size for size in range(1, min(most, share) + 1) if share % size == 0)
    return BatchPlan(processes, micro, share // micro)


def trl_section(recipe: Recipe) -> TrlSection:
    """The recipe's `trl` section, or its defaults."""
    return recipe.trl or TrlSection()


def processes() -> int:
    """WORLD_SIZE, the count of processes that a launcher started, or 1. Errors: UserError."""
    found = os.environ.get("WORLD_SIZE", "1")
    if not found.isdecimal() or int(found) < 1:
        raise UserError(f"WORLD_SIZE is {found!r}; a launcher sets it to a count of processes.")
    return int(found)


def asked_for_fsdp() -> bool:
    """True if the launcher told accelerate to shard by FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def sharding(arguments: Any) -> str:
    """The library that shards the optimizer's state; only it can read the state again."""
    if arguments.deepspeed_plugin is not None:
        return "deepspeed"
    return "fsdp" if asked_for_fsdp() else "none"


def check(recipe: Recipe, count: int) -> BatchPlan:
    """Check a recipe before anything loads; the plan on `count` processes, microbatches aside.

    Errors: UserError for what TRL cannot honour or share, and for a missing package.
    """
    refuse(recipe)
    section, model = trl_section(recipe), recipe.model
    # TRL would take these pairs of settings and not honour them.
    if recipe.generation.stop and recipe.grpo.mask_truncated_completions:
        raise UserError(
            "grpo.mask_truncated_completions is true and generation.stop is set; with engine trl "
            "allowed is one of them: TRL takes a completion that a stop string ended for cut off."
        )
    require_trainable(recipe)
    if model.quantization == "int8" and section.vllm == "colocate":
        raise UserError(
            "model.quantization is 'int8'; with trl.vllm colocate allowed are 'none' and 'nf4': "
            "vLLM does not take int8 weights from the policy."
        )
    if recipe.optimizer.state not in _OPTIM:
        raise UserError(
            "optimizer.state is 'cpu'; with engine trl allowed are 'device' and '8bit'. A file for "
            "trl.deepspeed with offload_optimizer keeps the state in the CPU's memory."
        )
    if recipe.optimizer.state == "8bit" and (section.deepspeed is not None or asked_for_fsdp()):
        raise UserError(
            "optimizer.state is '8bit'; allowed is 'device' where DeepSpeed or FSDP shards it."
        )
    if count % section.vllm_tensor_parallel_size:
        raise UserError(
            f"trl.vllm_tensor_parallel_size is {section.vllm_tensor_parallel_size}; it must divide "
            f"the number of processes, {count}."
        )
    plan = batch_plan(recipe, count)
    for wanted, package, why in (
        (section.vllm != "off", "vllm", f"trl.vllm is {section.vllm!r}"),
        (section.use_kernels, "kernels", "trl.use_kernels is true"),
        (section.deepspeed is not None, "deepspeed", "trl.deepspeed is set"),
    ):
        if wanted and find_spec(package) is None:
            raise UserError(f"{why}, which needs the package {package}.")
    if section.deepspeed is not None:
        check_deepspeed(read_deepspeed(section.deepspeed), "trl.deepspeed")
    return plan


def require_trl() -> None:
    """Errors: UserError when TRL is missing, or a version whose insides are not known."""
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
    recipe: Recipe, plan: BatchPlan, bf16: bool, on_cpu: bool, longest_prompt: int
) -> dict[str, Any]:
    """Arguments of GRPOConfig but `output_dir`; `longest_prompt` in tokens.

    An optimizer step of TRL is one of the recipe's `num_iterations` updates.
    """
    generation, grpo, section = recipe.generation, recipe.grpo, trl_section(recipe)
    arguments: dict[str, Any] = dict(KEYS["fixed"])
    for key in KEYS["copied"]:
        part, name = key.split(".")
        arguments[name] = getattr(getattr(recipe, part), name)
    arguments |= {
        "optim": _OPTIM[recipe.optimizer.state],
        "use_cpu": on_cpu,
        "bf16": bf16,
        "per_device_train_batch_size": plan.per_device_train_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "steps_per_generation": plan.gradient_accumulation_steps,
        "max_steps": recipe.train.max_steps * grpo.num_iterations,
        # A mean over the step's tokens: TRL's bnpo would take it over each microbatch.
        "loss_type": "dapo" if grpo.loss_type == "bnpo" else grpo.loss_type,
        "reward_weights": [reward.weight for reward in recipe.rewards],
        "min_p": generation.min_p or None,
        "generation_kwargs": None,
        "use_vllm": section.vllm != "off",
        "ddp_timeout": COLLECTIVE_TIMEOUT_S,
    }
    if section.deepspeed is not None:
        arguments["deepspeed"] = str(Path(os.path.expanduser(section.deepspeed)))
    if section.vllm != "off":
        arguments |= {name: getattr(section, name) for name in VLLM_KEYS[section.vllm]}
        arguments |= {
            "vllm_mode": section.vllm,
            "vllm_importance_sampling_correction": True,
            "vllm_max_model_length": longest_prompt + generation.max_completion_length,
            "generation_kwargs": {"stop": list(generation.stop)} if generation.stop else None,
        }
    return arguments
