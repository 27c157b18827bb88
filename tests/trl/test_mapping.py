"""Every key of a recipe is mapped, done by aha or refused; nothing is dropped in silence."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from aha.recipe import Recipe, load_recipe, shipped_recipes
from aha.trl.config import (
    KEYS,
    BatchPlan,
    check,
    config_arguments,
    refuse,
    require_trl,
    trl_section,
)
from aha.types import UserError


def sections(annotation: Any) -> list[type[BaseModel]]:
    """The models in an annotation such as `LoraSection | None` or `tuple[RewardSection, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in sections(part)]


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = sections(field.annotation)
        if inner:
            yield from leaves(inner[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_table_has_every_key_once_and_no_other() -> None:
    by_aha = [key for keys in KEYS["by_aha"].values() for key in keys]
    listed = [*KEYS["copied"], *KEYS["mapped"], *by_aha, *KEYS["refused"]]
    assert sorted(listed) == sorted(leaves(Recipe))


def test_what_is_mapped_is_an_argument_of_trl() -> None:
    from dataclasses import fields

    from trl import GRPOConfig

    known = {field.name for field in fields(GRPOConfig)} | {"peft.LoraConfig"}
    for key in KEYS["copied"]:
        assert key.split(".")[1] in known, key
    for key, to in KEYS["mapped"].items():
        assert set(to.split(", ")) <= known, key


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_can_run_on_trl(name: str) -> None:
    recipe = load_recipe(name, ["engine=trl"])
    plan = check(recipe, 1)
    assert plan.rows == recipe.grpo.prompts_per_step * recipe.generation.num_generations


# A value that is not the default, and the argument that must change with it.
CHANGED = {
    "model.autocast=bfloat16": {},  # decided with the device, see test_materials.py
    "generation.num_generations=6": {"num_generations": 6},
    "generation.max_completion_length=99": {"max_completion_length": 99},
    "generation.temperature=0.7": {"temperature": 0.7},
    "generation.top_p=0.9": {"top_p": 0.9},
    "generation.top_k=5": {"top_k": 5},
    "generation.min_p=0.1": {"min_p": 0.1},
    "grpo.num_iterations=3": {"num_iterations": 3, "max_steps": 450},
    "grpo.beta=0.04": {"beta": 0.04},
    "grpo.use_bias_correction_kl=false": {"use_bias_correction_kl": False},
    "grpo.epsilon=0.1": {"epsilon": 0.1},
    "grpo.entropy_coef=0.02": {"entropy_coef": 0.02},
    "grpo.epsilon_high=0.5": {"epsilon_high": 0.5},
    "grpo.importance_sampling_level=sequence": {"importance_sampling_level": "sequence"},
    "grpo.loss_type=dr_grpo": {"loss_type": "dr_grpo"},
    "grpo.loss_type=bnpo": {"loss_type": "dapo"},  # the native engine's bnpo, see config.py
    "grpo.scale_rewards=batch": {"scale_rewards": "batch"},
    "grpo.mask_truncated_completions=true": {"mask_truncated_completions": True},
    "optimizer.learning_rate=2e-5": {"learning_rate": 2e-5},
    "optimizer.weight_decay=0.1": {"weight_decay": 0.1},
    "optimizer.adam_beta1=0.8": {"adam_beta1": 0.8},
    "optimizer.adam_beta2=0.95": {"adam_beta2": 0.95},
    "optimizer.adam_epsilon=1e-6": {"adam_epsilon": 1e-6},
    "optimizer.max_grad_norm=0.3": {"max_grad_norm": 0.3},
    "optimizer.state=8bit": {"optim": "adamw_bnb_8bit"},
    "train.max_steps=7": {"max_steps": 7},
    "train.seed=5": {"seed": 5},
    "train.gradient_checkpointing=true": {"gradient_checkpointing": True},
    "rewards=[{name: accuracy, weight: 2.0}]": {"reward_weights": [2.0]},
    "trl.deepspeed=/x/ds.json": {"deepspeed": "/x/ds.json"},
    "trl.vllm=colocate": {
        "use_vllm": True, "vllm_mode": "colocate", "vllm_importance_sampling_correction": True,
        "vllm_max_model_length": 33 + 240, "vllm_gpu_memory_utilization": 0.3,
        "vllm_tensor_parallel_size": 1, "vllm_enable_sleep_mode": False,
    },
    "trl={vllm: colocate, vllm_gpu_memory_utilization: 0.5, vllm_tensor_parallel_size: 2, "
    "vllm_enable_sleep_mode: true}": {
        "vllm_gpu_memory_utilization": 0.5, "vllm_tensor_parallel_size": 2,
        "vllm_enable_sleep_mode": True,
    },
    "trl={vllm: server, vllm_server_host: node1, vllm_server_port: 9000}": {
        "use_vllm": True, "vllm_mode": "server", "vllm_server_host": "node1",
        "vllm_server_port": 9000,
    },
}  # fmt: skip


def arguments(*overrides: str) -> dict[str, Any]:
    recipe = load_recipe("countdown-tiny", ["engine=trl", *overrides])
    plan = BatchPlan(2, 12, 8)
    return config_arguments(recipe, plan, bf16=False, on_cpu=True, longest_prompt=33)


@pytest.mark.parametrize(("override", "expected"), CHANGED.items(), ids=CHANGED)
def test_a_key_reaches_its_argument(override: str, expected: dict[str, Any]) -> None:
    plain, changed = arguments(), arguments(override)
    assert {name: changed[name] for name in expected} == expected
    differing = {name for name in changed if changed[name] != plain.get(name)}
    assert differing <= set(expected) | {
        "vllm_mode", "vllm_max_model_length", "vllm_importance_sampling_correction", "use_vllm",
    }  # fmt: skip


def test_every_mapped_key_is_tried_above() -> None:
    tried = {override.partition("=")[0] for override in CHANGED}
    tried |= {f"trl.{name}" for name in trl_section(load_recipe("countdown-tiny")).model_fields_set}
    by_plan = {"grpo.prompts_per_step", "train.tokens_per_microbatch", "model.device"}
    mapped = {*KEYS["copied"], *KEYS["mapped"]}
    tried |= {key for key in mapped if key.startswith(("trl.vllm", "lora.", "rewards."))}
    assert mapped - by_plan <= tried


def test_the_plan_reaches_its_arguments() -> None:
    found = arguments()
    assert found["per_device_train_batch_size"] == 12
    assert found["gradient_accumulation_steps"] == found["steps_per_generation"] == 8


def test_stop_strings_under_vllm_are_its_own() -> None:
    found = arguments("trl.vllm=colocate", "generation.stop=[x]")
    assert found["generation_kwargs"] == {"stop": ["x"]}


def test_a_refused_key_is_named_with_the_reason() -> None:
    refused = KEYS["refused"]
    tried = {
        "grpo.advantage_estimator": ("rloo", "'rloo'", "'grpo'"),
        "grpo.kl_estimator": ("k2", "'k2'", "'k3'"),
        "length.schedule.limit": ("[{limit: 9, from_step: 2}]", ".*", r"\(\)"),
        "length.limit": ("adaptive", "'adaptive'", "'fixed'"),
        "length.penalty": ("alp", "'alp'", "'none'"),
        "length.keep": ("2", "2", "None"),
        "curriculum.draw": ("pass_rate", "'pass_rate'", "'epochs'"),
        "curriculum.rest_steps": ("3", "3", "0"),
        "grpo.reference_reset_steps": ("3", "3", "0"),
        "grpo.dynamic_sampling": ("true", "True", "False"),
        "grpo.use_adaptive_entropy": ("true", "True", "False"),
        "train.save_in_background": ("true", "True", "False"),
        "trl.use_liger_kernel": ("true", "True", "False"),
    }
    assert set(refused) == set(tried)
    for key, (value, found, allowed) in tried.items():
        name = ".".join(key.split(".")[:2])
        beta = ["grpo.beta=1"] if name == "grpo.reference_reset_steps" else []
        changes = [f"{name}={value}", *beta]
        recipe = load_recipe("countdown-tiny", ["engine=trl", *changes])
        with pytest.raises(
            UserError, match=f"^{name} is {found}; .* allowed is {allowed}: "
        ) as error:
            refuse(recipe)
        assert refused[key] in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generation.stop=[x]", "grpo.mask_truncated_completions=true"], "generation.stop is set"),
        (["model.quantization=nf4"], "needs adapters"),
        (
            ["model.quantization=int8", "lora={}", "trl.vllm=colocate"],
            "allowed are 'none' and 'nf4'",
        ),
        (["optimizer.state=cpu"], "allowed are 'device' and '8bit'"),
        (["optimizer.state=8bit", "trl.deepspeed=./any.json"], "where DeepSpeed or FSDP"),
        (["trl={vllm: colocate, vllm_tensor_parallel_size: 2}"], "must divide .* processes, 1"),
        (["trl.deepspeed=./nowhere.json"], "cannot be read|needs the package deepspeed"),
    ],
)
def test_settings_that_do_not_go_together(overrides: list[str], words: str) -> None:
    recipe = load_recipe("countdown-tiny", ["engine=trl", *overrides])
    with pytest.raises(UserError, match=words):
        check(recipe, 1)


def test_another_trl_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import aha.trl.config as config

    require_trl()
    monkeypatch.setattr(config, "version", lambda name: "1.17.0")
    with pytest.raises(UserError, match=r"TRL 1\.17\.0 is installed; allowed is 1\.16"):
        require_trl()
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed"):
        require_trl()


@pytest.mark.parametrize("package", ["vllm", "kernels", "deepspeed"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import aha.trl.config as config

    monkeypatch.setattr(config, "find_spec", lambda name: None if name == package else object())
    override = {
        "vllm": "trl.vllm=server",
        "kernels": "trl.use_kernels=true",
        "deepspeed": "trl.deepspeed=x.json",
    }[package]
    with pytest.raises(UserError, match=package.replace("_", "-")):
        check(load_recipe("countdown-tiny", ["engine=trl", override]), 1)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"scheduler": {"type": "WarmupLR"}}, "has a scheduler"),
        ({"zero_optimization": {"stage": 3}}, "stage3_gather_16bit_weights_on_model_save"),
        ([1], "not a JSON object"),
    ],
)
def test_a_deepspeed_file_may_not_replace_the_recipe(
    found: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aha.trl.config as config

    monkeypatch.setattr(config, "find_spec", lambda name: object())
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(found))
    recipe = load_recipe("countdown-tiny", ["engine=trl", f"trl.deepspeed={path}"])
    with pytest.raises(UserError, match=words):
        check(recipe, 1)
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    check(recipe, 1)


def test_the_native_engine_takes_no_trl_section() -> None:
    with pytest.raises(UserError, match="trl is set and engine is 'native'"):
        load_recipe("countdown-tiny", ["trl.vllm=server"])
    with pytest.raises(UserError, match="vllm_server_port goes with vllm: server"):
        load_recipe("countdown-tiny", ["engine=trl", "trl.vllm_server_port=9"])
