"""Predictions computed by hand for a model of two small layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GPT2Config

from aha.doctor.preview import measured, public_shape
from aha.grpo import logprobs
from aha.model.free_memory import HEAP_STEP_BYTES, container_limit, container_room
from aha.model.kernels.decode import Widths
from aha.model.sizes import Pass, Shape, kept_per_token
from aha.recipe import Recipe, load_recipe
from aha.rollout import cpu, cuda
from aha.train.memory import Phase, Place, Prediction, RunSizes, predict

PARAMETERS = 24_864
WEIGHTS = 4 * PARAMETERS
CPU = Place("cpu", 2**33, before=1000)
GPU = Place("cuda", 2**33, before=1000)
PROMPT = 70


def recipe(*changes: str) -> Recipe:
    return load_recipe(
        "countdown-tiny",
        [
            "grpo.prompts_per_step=2",
            "generation.num_generations=4",
            "generation.max_completion_length=30",
            *changes,
        ],
    )


def phase(predicted: Prediction, name: str) -> Phase:
    (found,) = [phase for phase in predicted.phases if phase.name == name]
    return found


def parts(shape: Shape, place: Place, name: str, *changes: str) -> dict[str, int]:
    return dict(phase(predict(recipe(*changes), shape, place, PROMPT), name).parts)


def test_what_a_token_keeps_by_hand(small_shape: Shape) -> None:
    # The stream twice, both norms; queries, keys, values; two rotated; attended; gate, up, product.
    block = 4 * (2 * 32 + 2 * 32 + (64 + 32 + 32) + (64 + 32) + 64 + 96 + 48)
    around = 4 * 4 * 32
    how = Pass(fused=True, recompute=False)
    assert kept_per_token(small_shape.widths, how) == 2 * block + around
    recomputed = Pass(fused=True, recompute=True)
    assert kept_per_token(small_shape.widths, recomputed) == 2 * 4 * 32 + block + around
    # Under autocast all but the stream has half the width.
    cast = Pass(fused=True, recompute=False, item=4, product_item=2)
    half = 4 * 2 * 32 + (block - 4 * 2 * 32) // 2
    assert kept_per_token(small_shape.widths, cast) == 2 * half + around


def test_weights_gradients_and_moments(small_shape: Shape) -> None:
    step = parts(small_shape, CPU, "optimizer step")
    assert step["before"] == 1000
    assert step["weights"] == step["gradients"] == WEIGHTS
    assert step["optimizer"] == 2 * WEIGHTS
    assert "reference" not in step
    assert parts(small_shape, CPU, "rollout", "grpo.beta=0.1")["reference"] == WEIGHTS


def test_the_paged_cache_by_hand(small_shape: Shape) -> None:
    # Keys and values of 2 layers x 2 heads x 16: 512 bytes a position, 64 positions a block. Of
    # each prompt's 70 tokens 64 are shared by its 4 rows; 100 tokens need one more block a row.
    per_block = 64 * 2 * 2 * 2 * 16 * 4
    assert parts(small_shape, CPU, "rollout")["KV cache"] == (2 * 1 + 8 * 1) * per_block
    one_group = parts(small_shape, CPU, "rollout", "generation.max_rows=4")
    assert one_group["KV cache"] == (1 + 4) * per_block


def test_the_cache_of_other_decoders_by_hand(small_shape: Shape) -> None:
    # On a GPU every row has a place for 100 + 16 positions, rounded up to 256, in bfloat16.
    on_gpu = parts(small_shape, GPU, "rollout")
    assert on_gpu["KV cache"] == 8 * 256 * 2 * 2 * 2 * 16 * 2
    # Without kernels every row has a place for 100 + 1 positions.
    plain = parts(small_shape, Place("cpu", 2**33, 1000, kernels=False), "rollout")
    assert plain["KV cache"] == 8 * 101 * 512


def test_a_gpu_has_copies_in_bfloat16_and_no_heap(small_shape: Shape) -> None:
    rollout, training = (parts(small_shape, GPU, name) for name in ("rollout", "training"))
    assert rollout["copies"] == 2 * PARAMETERS
    linear = 2 * (6144 + 4608)
    assert training["copies"] == 2 * linear
    assert "fragments" not in set(rollout) | set(training)
    whole = parts(small_shape, GPU, "rollout", "model.dtype=bfloat16")
    assert whole["weights"] == 2 * PARAMETERS
    assert whole.get("copies", 0) == 0


def test_adapters_alone_are_trained(small_shape: Shape) -> None:
    adapters = 4 * 8_960
    predicted = predict(recipe("lora={r: 8}", "grpo.beta=0.1"), small_shape, CPU, PROMPT)
    assert predicted.trained == 8_960
    assert predicted.parameters == PARAMETERS + 8_960
    step = phase(predicted, "optimizer step").parts
    assert step["weights"] == WEIGHTS + adapters
    assert step["gradients"] == adapters
    assert step["optimizer"] == 2 * adapters
    assert "reference" not in step
    # A folded copy of the whole model while it writes.
    assert phase(predicted, "rollout").parts["copies"] > WEIGHTS
    on_gpu = predict(recipe("lora={r: 8}"), small_shape, GPU, PROMPT)
    assert phase(on_gpu, "rollout").parts["weights"] == 2 * PARAMETERS + adapters
    assert "copies" not in phase(on_gpu, "rollout").parts


def test_the_files_pages_stay_where_layers_were_stacked(small_shape: Shape) -> None:
    # Queries, keys, values, gate and up of two layers; the rest is trained where it is mapped.
    stacked = 4 * 2 * (2048 + 2 * 1024 + 2 * 32 * 48)
    assert parts(small_shape, CPU, "checkpoint")["copies"] == stacked
    in_background = parts(small_shape, CPU, "checkpoint", "train.save_in_background=true")
    assert in_background["copies"] == stacked + 3 * WEIGHTS


def test_micro_batches(small_shape: Shape) -> None:
    one = RunSizes(recipe("train.tokens_per_microbatch=800"), small_shape, CPU, PROMPT)
    assert (one.micro_rows, one.micro_batches) == (8, 1)
    many = RunSizes(recipe("train.tokens_per_microbatch=299"), small_shape, CPU, PROMPT)
    # Two prompts and five completions: 2 * 70 + 5 * 30 tokens.
    assert (many.micro_rows, many.micro_tokens, many.micro_batches) == (5, 290, 2)
    # A row that is longer than the budget has a microbatch of its own.
    longer = RunSizes(recipe("train.tokens_per_microbatch=10"), small_shape, CPU, PROMPT)
    assert (longer.micro_rows, longer.micro_batches) == (1, 8)
    as_written = RunSizes(recipe(), small_shape, CPU, PROMPT, completion_tokens=10)
    assert as_written.longest == 80


def test_a_chunk_of_logits_by_hand() -> None:
    shape = public_shape("Qwen/Qwen2.5-0.5B")
    assert shape is not None
    # Prompts enough that a microbatch keeps more than all gradients take.
    changes = ("train.tokens_per_microbatch=4000", "grpo.prompts_per_step=8")
    training = parts(shape, CPU, "training", *changes)
    # 32 x 30 tokens of 151,936 logits are more than 64 MiB; three such chunks exist at a time.
    assert training["logits"] == 3 * logprobs.LOGIT_BYTES == 3 * 2**26


@pytest.mark.parametrize("changes", [(), ("lora={}",), ("grpo.beta=0.1",)])
def test_a_model_without_fused_blocks_is_predicted_with_all_logits(
    changes: tuple[str, ...],
) -> None:
    shape = measured(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=5000), "gpt2", "a test")
    training = parts(shape, CPU, "training", "train.tokens_per_microbatch=800", *changes)
    # 8 rows of 100 tokens, four times in float32.
    assert training["logits"] == 800 * 5000 * 4 * 4
    # Rows of 100 positions, and a layer's cache again while it grows.
    per_row = 100 * 2 * 2 * 32 * 4
    assert parts(shape, CPU, "rollout", *changes)["KV cache"] == 8 * per_row * 2


def test_the_peak_is_the_largest_phase(small_shape: Shape) -> None:
    predicted = predict(recipe(), small_shape, CPU, PROMPT)
    names = ["loading", "rollout", "training", "optimizer step", "checkpoint"]
    assert [phase.name for phase in predicted.phases] == names
    assert predicted.peak.total == max(phase.total for phase in predicted.phases)
    assert predicted.peak.total == sum(predicted.peak.parts.values())


def test_the_heap_has_one_margin(small_shape: Shape) -> None:
    # A step of the heap's growth, and a share of all tensors; not of the interpreter's own.
    for found in predict(recipe(), small_shape, CPU, PROMPT).phases[1:]:
        tensors = sum(found.parts.values()) - found.parts["fragments"] - CPU.before
        assert found.parts["fragments"] == HEAP_STEP_BYTES + int(0.06 * tensors)


def test_sizes_of_a_configuration_that_says_little() -> None:
    class Config:
        num_hidden_layers, hidden_size, num_attention_heads, vocab_size = 3, 64, 4, 10

    assert Widths.of(Config()) == Widths(3, 64, 4, 4, 16, 256, 10)


def test_constants_that_the_predictions_by_hand_stand_on() -> None:
    assert (cuda.STRIDE, cuda.POSITIONS, cpu.SLAB_BLOCKS) == (16, 256, 64)


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_memory(tmp_path: Path, version: int) -> None:
    assert container_limit(tmp_path) is container_room(tmp_path) is None
    folder = tmp_path / "memory" if version == 1 else tmp_path
    folder.mkdir(exist_ok=True)
    limit, used = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if version == 1
        else ("memory.max", "memory.current")
    )
    (folder / limit).write_text("1000000\n")
    (folder / used).write_text("700000\n")
    (folder / "memory.stat").write_text("anon 500000\ninactive_file 200000\n")
    assert container_limit(tmp_path) == 1_000_000
    assert container_room(tmp_path) == 500_000
    (folder / limit).write_text("max\n" if version == 2 else f"{2**63}\n")
    assert container_limit(tmp_path) is None
