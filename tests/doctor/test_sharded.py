"""Memory of engine trl on several GPUs: by hand, and beside DeepSpeed's own estimate."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aha.doctor.diagnosis import diagnose
from aha.doctor.preview import public_shape
from aha.doctor.sharded import Sharded, first_fit, sharded
from aha.model.sizes import Shape
from aha.recipe import load_recipe
from aha.train.memory import Place
from aha.types import UserError

PARAMETERS = 24_864
BEFORE = 1000
GIB = 2**30


def of(shape: Shape, gpus: int, *changes: str) -> dict[str, Sharded]:
    recipe = load_recipe(
        "countdown-tiny",
        [
            "engine=trl",
            "grpo.prompts_per_step=2",
            "generation.num_generations=4",
            "generation.max_completion_length=30",
            *changes,
        ],
    )
    place = Place("cuda", 8 * GIB, BEFORE)
    return {one.strategy: one for one in sharded(recipe, shape, place, 70, gpus)}


def test_by_hand(small_shape: Shape) -> None:
    found = of(small_shape, 4)
    linears = sum(layer.parameters for layer in small_shape.counts.linears)
    # Weights, gradients, DDP's copy of the gradients, two moments, all in float32.
    assert found["ddp"].states == BEFORE + 5 * 4 * PARAMETERS
    assert found["fsdp2"].states == BEFORE + 4 * 4 * PARAMETERS // 4
    # Eight completions on four GPUs: each writes two of 100 tokens, in bfloat16.
    cache = 2 * 100 * 2 * 2 * 2 * 16 * 2
    casts = 2 * linears
    assert found["ddp"].rollout == casts + cache
    assert found["ddp"].rows == 2
    # Stage 3 gathers the model to write.
    assert found["zero3"].rollout == 2 * PARAMETERS + cache
    assert found["ddp"].peak == found["ddp"].states + found["ddp"].training


@pytest.mark.parametrize("gpus", [1, 2, 8])
def test_zero_is_as_deepspeed_estimates_it(gpus: int) -> None:
    stages = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    three = pytest.importorskip("deepspeed.runtime.zero.stage3")
    shape = public_shape("Qwen/Qwen2.5-1.5B")
    assert shape is not None
    found, parameters = of(shape, gpus), shape.counts.parameters
    _, two_bytes = stages.estimate_zero2_model_states_mem_needs(parameters, gpus, cpu_offload=False)
    _, three_bytes, layer = three.estimate_zero3_model_states_mem_needs(
        parameters, shape.counts.largest, gpus, cpu_offload=False, cpu_offload_params=False
    )
    assert found["zero2"].states - BEFORE == pytest.approx(two_bytes)
    # DeepSpeed adds its largest layer, which is gathered; here that is not one of the states.
    assert found["zero3"].states - BEFORE == pytest.approx(three_bytes - layer)


def test_settings_that_the_engine_refuses_are_left_out(small_shape: Shape) -> None:
    assert list(of(small_shape, 2)) == ["ddp", "zero2", "zero3", "fsdp2"]
    assert list(of(small_shape, 2, "optimizer.state=8bit")) == ["ddp"]
    quantized = of(small_shape, 2, "lora={}", "model.quantization=nf4")
    assert list(quantized) == ["ddp", "zero2"]
    # vLLM keeps its share while training goes on.
    vllm = of(small_shape, 2, "trl={vllm: colocate, vllm_gpu_memory_utilization: 0.5}")
    assert list(vllm) == ["ddp", "zero2", "zero3"]
    assert min(vllm["ddp"].training, vllm["ddp"].rollout) > 4 * GIB


def test_what_is_shared_is_smaller(small_shape: Shape) -> None:
    two, eight = of(small_shape, 2), of(small_shape, 8)
    for strategy in ("zero2", "zero3", "fsdp2"):
        assert eight[strategy].states < two[strategy].states
    assert of(small_shape, 2, "grpo.beta=0.1")["ddp"].states > two["ddp"].states
    assert of(small_shape, 2, "lora={}")["ddp"].states < two["ddp"].states
    in_order = list(two.values())
    assert first_fit(in_order, two["ddp"].peak) == two["ddp"]
    assert first_fit(in_order, 0) is None


def about(gpus: int, *changes: str) -> Any:
    overrides = ["engine=trl", *changes]
    return diagnose("r1-zero-7b", overrides, device="h100", gpus=gpus, offline=True)


def test_the_doctor_names_the_strategy_and_its_command() -> None:
    report = about(8)
    assert report.fit
    text = report.as_text()
    assert "aha launch accelerate r1-zero-7b --processes 8 --strategy zero2" in text
    assert "engine trl on 8 GPUs, not measured" in text
    strategies = json.loads(report.as_json())["recipe"]["sharded"]
    assert [one["strategy"] for one in strategies] == ["ddp", "zero2", "zero3", "fsdp2"]
    alone = about(1)
    assert not alone.fit
    assert "aha launch" not in alone.as_text()


def test_several_gpus_need_engine_trl() -> None:
    with pytest.raises(UserError, match=r"--gpus is 2; allowed is 1: engine 'native'"):
        diagnose("r1-zero-7b", device="h100", gpus=2, offline=True)
    with pytest.raises(UserError, match="go with a recipe"):
        diagnose(gpus=2, offline=True)
