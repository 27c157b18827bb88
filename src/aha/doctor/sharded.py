"""Memory of engine trl on each of several GPUs, by strategy, from sizes alone. Never measured.

W are the bytes of the weights, N the GPUs. A GPU holds from one step to the next:

    ddp     weights, their gradients, DDP's copy of the gradients, Adam's moments: 5 W in float32
    zero2   2 bytes a weight, and 18 / N for gradients, float32 weights and moments
    zero3   18 bytes / N, and up to a billion weights that are gathered for a while
    fsdp2   weights, gradients and moments: 4 W / N, and what is gathered: embeddings, two blocks

ZeRO's are those of DeepSpeed's own estimate (deepspeed.readthedocs.io/en/latest/memory.html), with
its buckets beside them. A step is the larger of its rollout and its training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aha.doctor.advice import ROOMY
from aha.doctor.hardware import Finding, note, ok, problem
from aha.launch import Strategy
from aha.model.sizes import Shape, kept_per_token, logits_per_token, weights_bytes
from aha.recipe import Recipe
from aha.train.memory import Place, RunSizes, token_budget

# DeepSpeed's defaults, in values: `reduce_bucket_size` and `stage3_max_live_parameters`.
_BUCKET, _LIVE = 5 * 10**8, 10**9
# TRL's head takes some hundred tokens at a time: logits, probabilities, gradient.
_LOGITS_TOKENS, _LOGITS_AT_ONCE = 512, 3


@dataclass(frozen=True)
class Sharded:
    """Bytes on one GPU: `states` from step to step, `rollout` and `training` beside them.

    `rows`: completions of a microbatch, as the engine chooses them.
    """

    strategy: Strategy
    states: int
    rollout: int
    training: int
    rows: int

    @property
    def peak(self) -> int:
        return self.states + max(self.rollout, self.training)


def sharded(
    recipe: Recipe, shape: Shape, place: Place, prompt_tokens: int, gpus: int
) -> tuple[Sharded, ...]:
    """The strategies that the recipe may take, on `gpus` GPUs, each of which is like `place`."""
    run, w, counts = RunSizes(recipe, shape, place, prompt_tokens), shape.widths, shape.counts
    vllm = "off" if recipe.trl is None else recipe.trl.vllm
    trained, half = run.trained // run.trained_item, run.product_item
    linears = sum(layer.parameters for layer in counts.linears)

    rows = -(-recipe.grpo.prompts_per_step * recipe.generation.num_generations // gpus)
    cache = rows * run.longest * run.cached_position if vllm == "off" else 0
    if vllm == "colocate" and recipe.trl is not None:
        cache = int(recipe.trl.vllm_gpu_memory_utilization * place.limit)
    how = replace(run.how, fused=False)
    per_token = kept_per_token(w, how) - logits_per_token(w, how)
    budget = recipe.train.tokens_per_microbatch
    if budget is None:
        free = place.limit - place.before - run.weights - run.reference
        budget = token_budget(w, per_token, free, run.trained + run.moments, place.device)
    rows = min(rows, max(1, budget // run.longest))
    logits = _LOGITS_AT_ONCE * 4 * w.vocabulary * min(_LOGITS_TOKENS, rows * run.completion)
    activations = rows * run.longest * per_token + logits

    # DeepSpeed casts all weights but quantised ones to the type of the products.
    frozen = weights_bytes(counts, half, recipe.model.quantization) if run.adapted else 0
    frozen += half * counts.parameters if run.reference else 0
    bucket, whole = half * min(_BUCKET, trained), half * counts.parameters
    casts = half * linears if half != run.item else 0  # autocast's, kept for the whole pass
    fixed = run.weights + run.reference + run.trained + run.moments
    ends = run.item * (counts.parameters - linears)
    # Each with its states, and what it gathers besides.
    by_strategy: dict[Strategy, tuple[int, int]] = {
        "ddp": (fixed + run.trained, casts),
        "zero2": (frozen + half * trained + 18 * trained // gpus, bucket),
        "zero3": ((frozen + 18 * trained) // gpus, bucket + min(half * _LIVE, whole)),
        "fsdp2": (fixed // gpus, ends + (3 * run.item * linears + casts) // w.layers),
    }
    if run.quantized or vllm == "colocate":
        del by_strategy["fsdp2"]
    if run.quantized:
        del by_strategy["zero3"]
    if recipe.optimizer.state == "8bit":
        by_strategy = {"ddp": by_strategy["ddp"]}
    found = []
    for strategy, (states, gathered) in by_strategy.items():
        # TRL gathers the whole model for transformers' generation under stage 3.
        writing = whole if (strategy, vllm) == ("zero3", "off") else gathered
        # vLLM beside the trainer keeps its share while training goes on.
        training = gathered + activations + (cache if vllm == "colocate" else 0)
        found.append(Sharded(strategy, place.before + states, writing + cache, training, rows))
    return tuple(found)


def first_fit(found: Sequence[Sharded], limit: int) -> Sharded | None:
    """The first strategy that fits: each one shares more than the one before, and is slower."""
    return next((one for one in found if one.peak <= limit), None)


def sharded_finding(found: Sequence[Sharded], limit: int, gpus: int) -> Finding:
    """The first strategy that fits, or the smallest one."""
    fits = first_fit(found, limit)
    one = fits or min(found, key=lambda one: one.peak)
    text = f"{one.strategy}: {one.peak / 2**30:.2f} GiB a GPU at its peak, "
    text += f"{limit / 2**30:.2f} GiB available"
    if fits is None:
        return problem("memory", text, "Take more GPUs, lora, or a smaller model.", stops=True)
    if fits.peak > ROOMY * limit:
        return note("memory", text, "It fits by less than a prediction may be wrong.")
    return ok("memory", text)
