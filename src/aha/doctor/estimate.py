"""Seconds of a step, hours and cost on a card that is not here. An estimate, never a measurement.

A roofline: decoding reads all weights and the cache for every token of its longest row, and
training does 6 floating-point operations for each weight and token. The shares of the peak that are
reached were measured on one NVIDIA H200 (docs/performance.md); on other cards they are
assumptions. docs/doctor.md has the estimates beside published runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aha.model.sizes import Shape
from aha.recipe import Recipe
from aha.types import UserError
from aha.visible import did_you_mean, quoted


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet.

    `gib`: memory that a program sees. `tflops`: dense bfloat16 products with float32 sums.
    `gb_per_s`: of its memory. `link`: GB/s to the next card (NVLink, or PCIe).
    """

    gib: float
    tflops: float
    gb_per_s: float
    link: float


CARDS = {
    "l4": Card(22.5, 121, 300, 25),
    "a10g": Card(22.5, 70, 600, 25),
    "3090": Card(24, 71, 936, 25),
    "4090": Card(24, 165, 1008, 25),
    "5090": Card(31.8, 210, 1792, 50),
    "a6000": Card(47.5, 155, 768, 25),
    "l40s": Card(44.7, 362, 864, 25),
    "a100-40": Card(39.5, 312, 1555, 300),
    "a100-80": Card(79.2, 312, 2039, 300),
    "h100": Card(79.6, 989, 3350, 450),
    "h200": Card(140.4, 989, 4800, 450),
    "b200": Card(178, 2250, 8000, 900),
}
# Shares of the data sheet's peak. Measured: training 0.22 to 0.36 (0.5B to 3B, no checkpointing).
TRAINING_SHARE, BANDWIDTH_SHARE, LINK_SHARE = 0.35, 0.55, 0.5
# Seconds that one layer's launches take for a token. Measured: CUDA graphs of the native engine,
# and transformers' generation, which TRL uses without vLLM. vLLM is taken to be like the graphs.
LAYER_S = {"graphs": 65e-6, "transformers": 1.1e-3}
# The longest completion of a batch, in means; the recipe's limit is the most.
LONGEST = 2.0
# Cards of a machine, and GB/s between machines for each card: 400 Gbit/s, an assumption.
MACHINE, MACHINE_LINK = 8, 50
# GB/s at which a CPU updates an optimizer's state (28 bytes a weight) that lies in its memory.
HOST_GB_PER_S = 50.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step and its parts; hours of the recipe, evaluations included; cost of them.

    `decoding` is `graphs` or `transformers`. `mean_length` is in tokens.
    """

    card: str
    gpus: int
    mean_length: float
    decoding: str
    rollout_s: float
    training_s: float
    other_s: float
    hours: float
    cost: float | None

    @property
    def step_s(self) -> float:
        return self.rollout_s + self.training_s + self.other_s


def card_of(name: str) -> Card:
    """The card. Errors: UserError naming all of them."""
    if name not in CARDS:
        raise UserError(
            f"--device is {quoted(name)}; allowed are cpu, cuda and the cards {', '.join(CARDS)}."
            f"{did_you_mean(name, CARDS)}"
        )
    return CARDS[name]


def estimate(
    recipe: Recipe,
    shape: Shape,
    card: str,
    prompt_tokens: int,
    gpus: int = 1,
    mean_length: float | None = None,
    price: float | None = None,
) -> Estimate:
    """The estimate for `gpus` of a card, which share every step's completions evenly.

    `mean_length`: tokens of a completion, by default half of the limit. `price`: of one GPU for
    an hour. Every group is taken to have signal.
    """
    it, generation, grpo = card_of(card), recipe.generation, recipe.grpo
    flops_per_s = TRAINING_SHARE * it.tflops * 1e12
    link = it.link if gpus <= MACHINE else min(it.link, MACHINE_LINK)
    bytes_per_s, link_per_s = BANDWIDTH_SHARE * it.gb_per_s * 1e9, LINK_SHARE * link * 1e9
    limit, parameters = generation.max_completion_length, shape.counts.parameters
    length = min(limit, limit / 2 if mean_length is None else mean_length)
    rows = math.ceil(grpo.prompts_per_step * generation.num_generations / gpus)
    vllm = recipe.trl is not None and recipe.trl.vllm != "off"
    decoding = "graphs" if recipe.engine == "native" or vllm else "transformers"

    def writing(rows: int, per_group: int) -> float:
        """Seconds to write `rows` completions, `max_rows` at a time."""
        live = min(rows, generation.max_rows)
        w = shape.widths
        position = 2 * w.layers * w.kv_heads * w.head_dim * 2
        read = 2 * parameters + live * (prompt_tokens + length / 2) * position
        bound = max(read / bytes_per_s, 2 * parameters * live / flops_per_s)
        waves = rows / live
        tokens = (waves - 1) * length + min(limit, LONGEST * length)
        prompts = 2 * parameters * prompt_tokens * math.ceil(rows / per_group)
        return tokens * (w.layers * LAYER_S[decoding] + bound) + prompts / flops_per_s

    rollout = writing(rows, generation.num_generations)
    # Forward and backward; with checkpointing the forward pass twice; the reference's forward pass.
    per_token = 6 + 2 * recipe.train.gradient_checkpointing
    shared = rows / generation.num_generations if recipe.engine == "native" else rows
    tokens = rows * length + shared * prompt_tokens
    flops = parameters * tokens * (per_token * grpo.num_iterations + 2 * (grpo.beta != 0))
    training = flops / flops_per_s
    trained = parameters if recipe.lora is None else 0  # adapters are small
    if recipe.optimizer.state == "cpu":
        other = trained * (28 / (HOST_GB_PER_S * 1e9) + 8 / link_per_s)
    else:
        other = trained * 28 / bytes_per_s
    if gpus > 1:
        # A ring passes every gradient twice.
        other += 2 * 4 * trained * (gpus - 1) / gpus / link_per_s
    other *= grpo.num_iterations
    if vllm:
        other += 2 * parameters / link_per_s  # vLLM gets the new weights once a step
    held_out = recipe.evaluation.n * recipe.evaluation.samples
    every = recipe.evaluation.every
    evaluations = 2 + (recipe.train.max_steps // every if every else 0) if held_out else 0
    seconds = recipe.train.max_steps * (rollout + training + other)
    if held_out:
        seconds += evaluations * writing(held_out, 1)
    hours = seconds / 3600
    cost = None if price is None else price * gpus * hours
    return Estimate(card, gpus, length, decoding, rollout, training, other, hours, cost)
