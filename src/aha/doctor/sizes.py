"""The numbers that a run's memory follows from: types, rows, lengths, micro-batches, adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aha.doctor.shapes import Shape
from aha.recipe import Recipe
from aha.train.memory import (
    Linear,
    Pass,
    Widths,
    adapted_layers,
    adapter_parameters,
    kept_per_token,
    token_budget,
    weights_bytes,
)

Device = Literal["cpu", "cuda"]
_ADAPTER_ITEM = 4  # adapters are trained in float32 whatever the base is
# Layers with one input that the fused blocks compute as one product (`aha.model.llama`).
STACKS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True)
class Place:
    """Where a run would be.

    `limit`: bytes that it may have. `before`: bytes that are taken before it loads anything.
    `kernels`: whether there are compiled kernels, on a CPU. `bfloat16`: whether a GPU has it.
    """

    device: Device
    limit: int
    before: int
    kernels: bool = True
    bfloat16: bool = True


@dataclass(frozen=True)
class Sizes:
    """A recipe for a model at a place, in bytes, tokens and rows.

    `item`, `product_item`, `rollout_item`: bytes of a weight, of a large product's values, and of
    a weight in rollouts. `rows`: completions that are in the cache at a time, of `groups` prompts.
    `budget`: tokens of a micro-batch; `micro_rows` of `longest` tokens fill it, and the update
    takes `micro_batches` of them.
    """

    recipe: Recipe
    shape: Shape
    place: Place
    prompt: int
    completion: int
    item: int
    product_item: int
    rollout_item: int
    groups: int
    budget: int
    micro_rows: int
    micro_batches: int

    @property
    def longest(self) -> int:
        return self.prompt + self.completion

    @property
    def widths(self) -> Widths:
        return self.shape.widths

    @property
    def rows(self) -> int:
        return self.groups * self.recipe.generation.num_generations

    @property
    def weights_bytes(self) -> int:
        """Of the policy, adapters among them."""
        return (
            weights_bytes(self.shape.counts, self.item, self.recipe.model.quantization)
            + self.adapter_bytes
        )

    @property
    def adapter_bytes(self) -> int:
        return _ADAPTER_ITEM * adapter_parameters(self.shape.counts, self.recipe.lora)

    @property
    def trained_bytes(self) -> int:
        if self.recipe.lora is not None:
            return self.adapter_bytes
        return self.shape.counts.parameters * self.item

    @property
    def how(self) -> Pass:
        return _pass(self.recipe, self.shape, self.item, self.product_item)

    @property
    def stacks(self) -> tuple[tuple[Linear, ...], ...]:
        """Layers that are stacked: those of a fused model on which no adapter stands."""
        if not self.shape.counts.fused:
            return ()
        adapted = {layer.name for layer in adapted_layers(self.shape.counts, self.recipe.lora)}
        quantized = self.recipe.model.quantization != "none"
        return tuple(
            tuple(layer for layer in self.shape.counts.linears if layer.name in names)
            for names in STACKS
            if not quantized and not adapted & set(names)
        )


def tensors(shape: Shape, item: int) -> list[tuple[int, int]]:
    """Bytes of all weights, and of one tensor among them: the head's or embedding's first, then
    by name, then what is left."""
    head = item * shape.widths.hidden * shape.widths.vocabulary
    layers = [(item * x.parameters, item * x.inputs * x.outputs) for x in shape.counts.linears]
    rest = item * shape.counts.parameters - head - sum(total for total, _ in layers)
    return [(head, head), *layers, (rest, min(rest, head))]


def sizes_of(
    recipe: Recipe,
    shape: Shape,
    place: Place,
    prompt_tokens: int,
    completion_tokens: int | None = None,
) -> Sizes:
    """Everything resolved as the trainer would; completions as long as the recipe allows, or as
    given."""
    generation = recipe.generation
    item, product_item = _items(recipe, place)
    groups = min(
        max(1, generation.max_rows // generation.num_generations), recipe.grpo.prompts_per_step
    )
    completion = min(generation.max_completion_length, completion_tokens or 2**62)
    budget = recipe.train.tokens_per_microbatch or _budget(recipe, shape, place)
    rows = recipe.grpo.prompts_per_step * generation.num_generations
    micro_rows = min(rows, max(1, budget // (prompt_tokens + completion)))
    # On a CPU rollouts run in the type of the weights.
    casts = place.device == "cuda" and recipe.model.quantization == "none"
    return Sizes(
        recipe=recipe,
        shape=shape,
        place=place,
        prompt=prompt_tokens,
        completion=completion,
        item=item,
        product_item=product_item,
        rollout_item=min(item, product_item) if casts else item,
        groups=groups,
        budget=budget,
        micro_rows=micro_rows,
        micro_batches=-(-rows // micro_rows),
    )


def _items(recipe: Recipe, place: Place) -> tuple[int, int]:
    """As `choose_dtype` and `choose_autocast`, for a place that need not be this machine."""
    model, gpu = recipe.model, place.device == "cuda" and place.bfloat16
    frozen = recipe.lora is not None
    item = 2 if model.dtype == "bfloat16" or (model.dtype == "auto" and frozen and gpu) else 4
    cast = model.autocast == "bfloat16" or (model.autocast == "auto" and gpu)
    return item, 2 if cast and item == 4 else item


def _pass(recipe: Recipe, shape: Shape, item: int, product_item: int) -> Pass:
    casts = recipe.lora is not None and item < _ADAPTER_ITEM
    recompute = recipe.train.gradient_checkpointing
    return Pass(shape.counts.fused, recompute, item, product_item, adapter_casts=casts)


def _budget(recipe: Recipe, shape: Shape, place: Place) -> int:
    """What the trainer would choose by itself, with the memory that is left once all is loaded."""
    item, _ = _items(recipe, place)
    weights = weights_bytes(shape.counts, item, recipe.model.quantization)
    adapters = _ADAPTER_ITEM * adapter_parameters(shape.counts, recipe.lora)
    loaded = place.before + weights + adapters
    if recipe.grpo.beta and recipe.lora is None:
        loaded += weights
    # The trainer asks with the products in the type of the weights.
    per_token = kept_per_token(shape.widths, _pass(recipe, shape, item, item))
    trained = shape.counts.parameters * item if recipe.lora is None else adapters
    return token_budget(shape.widths, per_token, place.limit - loaded, trained, place.device)
