"""The memory of a run, from its recipe and its model's configuration, without weights.

The engines choose the tokens of a microbatch by these formulas (`token_budget`). `--dry-run` and
`aha doctor` predict with them (`predict`): every completion is as long as the recipe allows and
every group has signal, which is the most that a step can need. The peak is the largest phase,
from the second step on, when Adam's moments exist.

| part | is |
|---|---|
| before | Python, PyTorch and the other libraries; on a GPU its context, an assumption |
| weights | of the policy with its adapters; a quantised layer with its scales |
| gradients | of what is trained, in its type |
| optimizer | Adam's two moments of what is trained, as `optimizer.state` says |
| reference | a frozen copy for the KL term; adapters need none |
| copies | weights that exist twice for a while: in another type, folded together, being saved |
| KV cache | keys and values of the completions that are written at a time |
| activations | what the forward pass keeps for the backward pass, and one block's gradients |
| logits | of the tokens that the head takes at a time, a few tensors of that size |
| fragments | on a CPU, the heap's unused part: one margin, see `_FRAGMENTS` |

Left out: what PyTorch's allocator does not fill on a GPU, the host's memory for a run there, and
what a user's own reward or data set takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedModel

from aha.grpo import logprobs
from aha.grpo.batches import fullest
from aha.model.free_memory import HEAP_STEP_BYTES, LARGE_TENSOR_BYTES, free_memory
from aha.model.kernels import calls
from aha.model.kernels.decode import Widths
from aha.model.sizes import (
    Linear,
    Pass,
    Shape,
    adapted_layers,
    adapter_parameters,
    kept_per_token,
    logits_per_token,
    weights_bytes,
)
from aha.recipe import Recipe
from aha.rollout import cpu, cuda
from aha.train.optimizer import moments_bytes

Device = Literal["cpu", "cuda"]
PARTS = (
    "before", "weights", "gradients", "optimizer", "reference", "copies", "KV cache",
    "activations", "logits", "fragments",
)  # fmt: skip

# Beyond this, a CPU's caches hold less than a microbatch and a step gets slower (docs/log.md).
_MOST_TOKENS = {"cpu": 4096, "cuda": 65_536, "mps": 8192}
_MOST_HIDDEN_VALUES = 2**20
_FEWEST_TOKENS = 256
# The share of free memory that a microbatch may take; the rest is for what this does not count.
_SHARE = 0.5
_ADAPTER_ITEM = 4  # adapters are trained in float32 in every case
# Layers with one input that the fused blocks compute as one product (`aha.model.llama`).
_STACKS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_LOGITS_AT_ONCE = 3  # logits, probabilities, a temporary (`aha.grpo.logprobs`)
# Vocabularies up to this size are searched whole (`aha.rollout.sampler`).
_SEARCHED_WHOLE = 128 * 128
# The C library keeps freed small tensors, and holes stay between them. Beside one step of the
# heap's growth, most runs in docs/doctor.md need -6 % to +8 % of all tensors, deep models with
# gradient checkpointing up to +17 %. This margin keeps all predictions of them within 15 %.
_FRAGMENTS = 0.06


def token_budget(widths: Widths, per_token: float, free: float, grown: int, device: str) -> int:
    """Tokens of a microbatch: half of what is `free` once gradients and moments exist.

    `free` and `grown` (gradients and moments) are in bytes.
    """
    room = max(0.0, _SHARE * (free - grown))
    most = _MOST_TOKENS[device]
    if device == "cpu":
        # Products are at full speed with a thousand tokens; more of a wide model only take memory.
        most = min(most, _MOST_HIDDEN_VALUES // widths.hidden)
    return max(_FEWEST_TOKENS, min(int(room / per_token), most))


def tokens_that_fit(
    model: PreTrainedModel, fused: bool, recompute: bool, state: str, free: int | None = None
) -> int:
    """`token_budget` of a loaded model, by default for the memory that is free on its device.

    `fused`: the fused blocks run the model; without them all logits of a microbatch exist at
    once. `state`: `optimizer.state`.
    """
    free = free_memory(model.device) if free is None else free
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    widths, item = Widths.of(model.config), next(model.parameters()).element_size()
    per_token = kept_per_token(widths, Pass(fused, recompute, item, item))
    grown = trained + moments_bytes(trained, item, state, model.device.type)
    return token_budget(widths, per_token, free, grown, model.device.type)


@dataclass(frozen=True)
class Place:
    """The place of a run.

    `limit`: bytes that it may use. `before`: bytes in use before it loads anything.
    `kernels`: there are compiled kernels, on a CPU. `bfloat16`: a GPU computes in it.
    """

    device: Device
    limit: int
    before: int
    kernels: bool = True
    bfloat16: bool = True


class RunSizes:
    """A recipe for a model at a place, everything resolved as the trainer would.

    `item`, `product_item`, `rollout_item`: bytes of a weight, of a large product's values, and of
    a weight in rollouts. `rows`: completions in the cache at a time, of `groups` prompts.
    `budget`: tokens of a microbatch. `micro_rows` of `longest` tokens fill it; they read
    `micro_tokens`, prompts once where they are shared. The update takes `micro_batches` of them.
    `weights` and `trained` (with adapters), `moments` and a checkpoint's `saved` are bytes.
    """

    def __init__(
        self,
        recipe: Recipe,
        shape: Shape,
        place: Place,
        prompt_tokens: int,
        completion_tokens: int | None = None,
    ) -> None:
        generation, model, counts = recipe.generation, recipe.model, shape.counts
        self.recipe, self.shape, self.place = recipe, shape, place
        self.on_cpu, self.adapted = place.device == "cpu", recipe.lora is not None
        self.quantized = model.quantization != "none"
        # As `choose_dtype` and `choose_autocast`, for a place that need not be this machine.
        fast = not self.on_cpu and place.bfloat16
        auto = model.dtype == "auto" and self.adapted and fast
        self.item = 2 if model.dtype == "bfloat16" or auto else 4
        cast = model.autocast == "bfloat16" or (model.autocast == "auto" and fast)
        self.product_item = 2 if cast else self.item
        # On a CPU rollouts run in the type of the weights.
        casts = not self.on_cpu and not self.quantized
        self.rollout_item = self.product_item if casts else self.item

        adapters = _ADAPTER_ITEM * adapter_parameters(counts, recipe.lora)
        base = weights_bytes(counts, self.item, model.quantization)
        self.weights = base + adapters
        self.trained = adapters if self.adapted else counts.parameters * self.item
        self.trained_item = _ADAPTER_ITEM if self.adapted else self.item
        adam = (self.trained, self.trained_item, recipe.optimizer.state)
        self.moments = moments_bytes(*adam, place.device)
        self.saved = self.trained + moments_bytes(*adam, "cpu")
        self.reference = base if recipe.grpo.beta and not self.adapted else 0

        self.prompt = prompt_tokens
        self.completion = min(generation.max_completion_length, completion_tokens or 2**62)
        self.longest = self.prompt + self.completion
        prompts, repeats = recipe.grpo.prompts_per_step, generation.num_generations
        self.groups = min(max(1, generation.max_rows // repeats), prompts)
        self.rows = self.groups * repeats

        self.how = Pass(
            fused=counts.fused,
            recompute=recipe.train.gradient_checkpointing,
            item=self.item,
            product_item=self.product_item,
            adapter_casts=self.adapted and self.item < _ADAPTER_ITEM,
        )
        w = shape.widths
        narrow = w.head_dim % calls.HEAD_MULTIPLE != 0
        self.kernels = self.on_cpu and place.kernels and self.item == 4 and not narrow
        # The trainer asks with the products in the type of the weights.
        per_token = kept_per_token(w, replace(self.how, product_item=self.item))
        free = place.limit - place.before - self.weights - self.reference
        self.budget = recipe.train.tokens_per_microbatch or token_budget(
            w, per_token, free, self.trained + self.moments, place.device
        )
        self.micro_rows, self.micro_tokens = fullest(
            prompts, repeats, self.prompt, self.completion, self.budget, counts.fused
        )
        self.micro_batches = -(-prompts * repeats // self.micro_rows)
        # Keys and values of one position of one completion.
        self.cached_position = 2 * w.layers * w.kv_heads * w.head_dim * self.rollout_item
        # On a CPU: rollouts run in C, and attention in training.
        self.in_c = self.kernels and counts.fused

    def stacks(self, adapters: bool = True) -> list[list[Linear]]:
        """Layers that the fused blocks stack: plain ones, on which no adapter stands."""
        counts = self.shape.counts
        if not counts.fused or (self.quantized and adapters):
            return []
        lora = self.recipe.lora if adapters else None
        taken = {layer.name for layer in adapted_layers(counts, lora)}
        return [
            [layer for layer in counts.linears if layer.name in names]
            for names in _STACKS
            if not taken & set(names)
        ]


@dataclass(frozen=True)
class Phase:
    """Bytes of a phase by part."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Prediction:
    """The memory of a run; `trained` of the `parameters` have gradients.

    `tokens_per_microbatch` is the recipe's budget, or the trainer's choice.
    """

    parameters: int
    trained: int
    tokens_per_microbatch: int
    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)


def predict(
    recipe: Recipe,
    shape: Shape,
    place: Place,
    prompt_tokens: int,
    completion_tokens: int | None = None,
) -> Prediction:
    """The memory of a run; completions have `completion_tokens`, or as many as they may."""
    run = RunSizes(recipe, shape, place, prompt_tokens, completion_tokens)
    item, linears, saved = run.item, shape.counts.linears, shape.saved_item
    # On a CPU weights of the file's own type are the file, mapped. All of it counts as the
    # process's while one layer is read from there, the stacked and quantised ones too.
    mapped = 0
    if run.on_cpu and saved == item:
        moved = linears if run.quantized else [x for stack in run.stacks() for x in stack]
        mapped = item * sum(x.weights if run.quantized else x.parameters for x in moved)
    # Other files' pages lie beside the weights that are made of them.
    loading = mapped
    if run.on_cpu and saved not in (None, item):
        loading = shape.counts.parameters * saved
    # The copy that a checkpoint is written from while training goes on.
    being_saved = run.saved if run.on_cpu and recipe.train.save_in_background else 0
    held = Counter(before=place.before, weights=run.weights, reference=run.reference)
    trained = held + Counter(optimizer=run.moments, copies=mapped + being_saved)
    # On a CPU bitsandbytes updates a parameter with five float32 tensors of its size.
    packed = run.on_cpu and not run.adapted and recipe.optimizer.state == "8bit"
    unpacked = 5 * 4 * shape.counts.largest if packed else 0
    phases = {
        "loading": held + Counter(copies=loading),
        "rollout": trained + Counter(_rollout(run)),
        "training": trained + Counter(_training(run)),
        "optimizer step": trained + Counter(gradients=run.trained, copies=unpacked),
        "checkpoint": trained.copy(),
    }
    if run.on_cpu:
        for name in list(phases)[1:]:
            tensors = sum(phases[name].values()) - place.before
            phases[name]["fragments"] = HEAP_STEP_BYTES + int(_FRAGMENTS * tensors)
    trainable = run.trained // run.trained_item
    return Prediction(
        parameters=shape.counts.parameters + (trainable if run.adapted else 0),
        trained=trainable,
        tokens_per_microbatch=run.budget,
        phases=tuple(
            Phase(name, {part: parts[part] for part in PARTS if parts[part]})
            for name, parts in phases.items()
        ),
    )


def _training(run: RunSizes) -> Mapping[str, int]:
    """The largest moment of an update: the head's part, the last block's, or the end of a block.

    The first microbatch's gradients come as its activations go; the next one finds them there.
    """
    w, counts, item, how = run.shape.widths, run.shape.counts, run.item, run.how
    tokens, places = run.micro_tokens, run.micro_rows * run.longest
    kept = tokens * (kept_per_token(w, how) - logits_per_token(w, how))
    # Gradients of a block's values: of the stream twice, of gate and up.
    moving = tokens * 2 * (w.hidden * item + w.inner * run.product_item)
    if how.fused:
        # Queries, keys and values of the padded rows: of one layer with compiled kernels, with
        # the result and all gradients; else of all that keep their values.
        one = places * (w.heads + w.kv_heads) * w.head_dim * run.product_item
        if run.kernels:
            moving = max(moving, 4 * one)
        else:
            kept += 2 * one * (1 if how.recompute else w.layers)

    # Without fused blocks all logits exist at once; their share of a token counts the copies.
    chunk = all_logits = tokens * logits_per_token(w, how)
    times, chunks = 1, 1
    if how.fused:
        all_logits = 4 * w.vocabulary * run.micro_rows * run.completion
        most = logprobs.logit_bytes(run.place.device)
        chunk, times = min(most, all_logits), _LOGITS_AT_ONCE
        chunks = -(-all_logits // most)

    # Autocast's copies of the blocks' weights, which the backward pass reads again; or one
    # quantised layer's as it is computed with, twice for a moment.
    copies = 0
    if run.quantized:
        copies = 2 * item * max((x.inputs * x.outputs for x in counts.linears), default=0)
    elif run.product_item != item:
        copies = run.product_item * sum(x.weights for x in counts.linears)

    again = run.micro_batches > 1
    head = 0 if run.adapted else item * w.hidden * w.vocabulary
    there = run.trained if again else head
    # The head's gradient is made when its first chunk of tokens is done.
    before = there if again or chunks > 1 else 0
    added = 0  # a layer's gradient, made before it is added to the one that exists
    if again and not run.adapted:
        embedding = item * (counts.parameters - sum(x.parameters for x in counts.linears)) - head
        layers = [[x] for x in counts.linears] + run.stacks()
        largest = max((sum(x.inputs * x.outputs for x in layer) for layer in layers), default=0)
        added = max(item * largest, min(embedding, head))
    moments = (
        {"activations": kept, "gradients": before, "logits": times * chunk, "copies": copies},
        {"activations": kept, "gradients": there, "logits": chunk, "copies": copies},
        {"activations": kept + moving, "gradients": there + added, "copies": copies},
        {"gradients": run.trained},
    )
    return max(moments, key=lambda parts: sum(parts.values()))


def _rollout(run: RunSizes) -> Mapping[str, int]:
    """Cache, logits, the prompts' pass and copied weights, by the decoder that would run."""
    w, counts, item = run.shape.widths, run.shape.counts, run.rollout_item

    copies = 0
    if run.on_cpu and run.adapted and not run.quantized and run.item == 4:
        # Adapters are folded into a copy, which decodes as fast as if there were none. Each
        # adapter's product is made before it is added; then layers are stacked one by one. The C
        # library keeps the memory of small layers that were stacked.
        stacks = run.stacks(adapters=False)
        ones = [item * sum(x.inputs * x.outputs for x in stack) for stack in stacks]
        layers = [item * x.inputs * x.outputs for x in adapted_layers(counts, run.recipe.lora)]
        copies = item * counts.parameters + max([2 * layer for layer in layers] + ones, default=0)
        copies += sum(
            item * sum(x.parameters for x in stack)
            for stack, one in zip(stacks, ones, strict=True)
            if one < LARGE_TENSOR_BYTES
        )
    elif not run.on_cpu and item < run.item:
        copies = item * counts.parameters
    elif run.in_c and w.packs:
        # The kernels read small models' weights from panels.
        copies = 4 * (sum(x.weights for x in counts.linears) + w.hidden * w.vocabulary)

    if not counts.fused:
        # Every layer's cache is copied when it grows, one after the other.
        cache = run.rows * run.longest * run.cached_position
        cache += 2 * cache // w.layers
    elif run.in_c:
        # A group's rows share the blocks that the prompt fills.
        shared = run.prompt // calls.BLOCK
        own = -(-run.longest // calls.BLOCK) - shared
        cache = (run.groups * shared + run.rows * own) * calls.BLOCK * run.cached_position
    else:
        capacity = run.longest + 1
        if not run.on_cpu:
            capacity = -(-(run.longest + cuda.STRIDE) // cuda.POSITIONS) * cuda.POSITIONS
        cache = run.rows * capacity * run.cached_position

    # A token's logits of every row, as often as `sampler.sample` holds them: as they are, as
    # log-probabilities and probabilities; for top_p sorted, with 64-bit places and running sums.
    drawn, plain = run.recipe.generation, 5 if w.vocabulary <= _SEARCHED_WHOLE else 4
    times = 10 if drawn.top_p < 1 else 6 if drawn.top_k or drawn.min_p else plain
    logits = 4 * run.rows * w.vocabulary * times
    if not run.on_cpu and counts.fused:
        # Each graph keeps its own: one for every further 256 positions.
        graphs = -(-run.completion // cuda.POSITIONS) + 1
        logits += graphs * run.rows * w.vocabulary * item

    # One block's values for the prompts that are read at a time; nothing of them is kept.
    tokens = run.groups * run.prompt
    if counts.fused:
        most = cpu.PREFILL_TOKENS if run.in_c else cuda.PREFILL_TOKENS
        tokens = max(min(tokens, most), run.rows)
    attention = 2 * w.hidden + 3 * (w.heads + w.kv_heads) * w.head_dim
    activations = tokens * max(attention, 2 * w.hidden + 3 * w.inner) * item
    return {"copies": copies, "KV cache": cache, "logits": logits, "activations": activations}
