"""The work of a benchmark: its sizes, its models and prompts, and its cost in arithmetic.

All sides get the same weights and the same texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config

from aha.model.load import load_model, load_tokenizer
from aha.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from aha.tasks import load_problems
from aha.tiny.traces import tiny_tokenizer
from aha.types import Problem

Side = Literal["native", "trl", "trl-continuous"]

# Sizes by name. Qwen2.5's are in config.json of huggingface.co/Qwen/Qwen2.5-*, base and -Instruct
# alike. `qwen2.5-0.5b-4-layers` has 4 of the 24 layers of 0.5B and a small vocabulary, to measure a
# layer at each length. Random weights are enough: the cost depends on nothing else about a model.
SHAPES: dict[str, dict[str, Any]] = json.loads(
    resources.files("aha.bench").joinpath("shapes.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Spec:
    """One side's work: a step of `prompts` x `generations`, learning rate 0.

    `model` is a name or folder as in a recipe, on Countdown problems with the default recipe's
    rewards; or the name of a shape, with random weights, every completion exactly `limit` tokens
    long and rewards that only alternate. `checkpointing` is gradient checkpointing. `prompt` is
    the length that a shape's prompts are repeated to, in tokens. `state` is `optimizer.state`.
    """

    side: Side
    model: str
    prompts: int
    generations: int
    limit: int
    threads: int
    checkpointing: bool = False
    prompt: int | None = None
    state: str = "device"

    @property
    def is_shape(self) -> bool:
        return self.model in SHAPES

    def recipe(self) -> Recipe:
        """The default recipe with these sizes."""
        changes = {
            "model.name": "aha-tiny" if self.is_shape else self.model,
            "grpo.prompts_per_step": self.prompts,
            # A recipe has no groups of one; the sides read this from the spec.
            "generation.num_generations": max(2, self.generations),
            "generation.max_completion_length": self.limit,
            "train.gradient_checkpointing": self.checkpointing,
            "optimizer.state": self.state,
        }
        return load_recipe(DEFAULT_RECIPE, [f"{key}={value}" for key, value in changes.items()])

    def problems(self) -> tuple[Problem, ...]:
        return load_problems(self.recipe().task, "train", self.prompts).problems


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one step, its completion tokens, and the process's peak memory so far in GiB."""

    step_s: float
    rollout_s: float
    train_s: float
    tokens: int
    peak_gb: float
    logprob_gap: float | None = None
    tokens_per_microbatch: int | None = None


def build(spec: Spec, device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The policy and its tokenizer; random weights for a shape."""
    if not spec.is_shape:
        section = spec.recipe().model
        return load_model(section), load_tokenizer(section)
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[spec.model],
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # as `load_model` does
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model, tokenizer


def alternate(completions: Sequence[Any], **columns: Any) -> list[float]:
    """A reward that gives every group signal, whatever was written."""
    return [float(index % 2) for index in range(len(completions))]


def fill_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's state as large as it is from the second step on; rate 0 moves nothing.

    Without it the peak of a first step would lack Adam's two moments.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def training_flops(
    config: Any, prompts: int, generations: int, prompt: int, completion: int
) -> float:
    """FLOPs of an update, forward and backward: 6 a weight and token, plus causal attention.

    A prompt counts once for its generations, but in attention. The head counts where completions
    are predicted; what is computed again (checkpointing) does not count.
    """
    rows = prompts * generations
    tokens = prompts * prompt + rows * completion
    head = config.hidden_size * config.vocab_size
    products = 6.0 * (tokens * block_weights(config) + rows * completion * head)
    width = config.num_attention_heads * _head_dim(config)
    attention = 6.0 * config.num_hidden_layers * rows * (prompt + completion) ** 2 * width
    return products + attention


def decode_bytes(config: Any, cached: float, bytes_per_value: int = 4) -> float:
    """Bytes that one token of one row reads: weights, and keys and values of `cached` positions."""
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * _head_dim(config)
    weights = block_weights(config) + config.hidden_size * config.vocab_size
    return bytes_per_value * (weights + kv * cached)


def block_weights(config: Any) -> int:
    """Parameters of the blocks' matrices."""
    hidden, head_dim = config.hidden_size, _head_dim(config)
    attention = hidden * head_dim * 2 * (config.num_attention_heads + config.num_key_value_heads)
    return int(config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size))


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
