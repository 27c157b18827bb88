"""What a rollout holds beside the weights, by the decoder that would run it (`aha.rollout`)."""

from __future__ import annotations

from aha.doctor.needs import Need
from aha.doctor.shapes import Shape
from aha.doctor.sizes import STACKS, Sizes, tensors
from aha.model.kernels import calls
from aha.model.kernels.decode import Sizes as KernelSizes
from aha.rollout import cpu, cuda
from aha.sections import GenerationSection
from aha.train.memory import LARGE_TENSOR_BYTES, Linear, adapted_layers

# Vocabularies up to this are searched whole (`aha.rollout.sampler`).
_SEARCHED_WHOLE = 128 * 128


def rollout_needs(sizes: Sizes) -> list[Need]:
    """Cache, logits, the prompts' pass, and what is copied for the time of the rollout."""
    return [*_copies(sizes), _cache(sizes), _logits(sizes), _prompts(sizes)]


def cache_bytes_per_position(sizes: Sizes) -> int:
    """Keys and values of one position of one completion."""
    w = sizes.widths
    return 2 * w.layers * w.kv_heads * w.head_dim * sizes.rollout_item


def _copies(sizes: Sizes) -> list[Need]:
    """The whole model in another form, where the rollout takes one."""
    shape, item = sizes.shape, sizes.rollout_item
    if sizes.place.device == "cpu" and _folds(sizes):
        return [Need("copies", *x) for x in (*tensors(shape, item), *_folding(sizes))]
    if sizes.place.device == "cuda" and item < sizes.item:
        return [Need("copies", *tensor) for tensor in tensors(shape, item)]
    return [Need("copies", _packed_bytes(sizes), LARGE_TENSOR_BYTES - 1)]


def _folding(sizes: Sizes) -> list[tuple[int, int]]:
    """What folding adapters into the copy takes for a moment, and what it leaves.

    Each adapter's product is made before it is added; then layers are stacked one by one. Small
    ones leave holes that no stack fits into.
    """
    item, stacks = sizes.rollout_item, _whole_stacks(sizes.shape)
    ones = [item * sum(x.inputs * x.outputs for x in stack) for stack in stacks]
    layers = [
        item * x.inputs * x.outputs for x in adapted_layers(sizes.shape.counts, sizes.recipe.lora)
    ]
    passing = max([2 * layer for layer in layers] + ones, default=0)
    holes = [
        (item * sum(x.parameters for x in stack), one)
        for stack, one in zip(stacks, ones, strict=True)
        if one < LARGE_TENSOR_BYTES
    ]
    return [(passing, passing), *holes]


def _folds(sizes: Sizes) -> bool:
    """Whether adapters are folded into a copy, which decodes as fast as if there were none."""
    recipe = sizes.recipe
    return recipe.lora is not None and recipe.model.quantization == "none" and sizes.item == 4


def _whole_stacks(shape: Shape) -> list[list[Linear]]:
    """What the fused blocks stack in a model without adapters."""
    if not shape.counts.fused:
        return []
    return [[layer for layer in shape.counts.linears if layer.name in names] for names in STACKS]


def _packed_bytes(sizes: Sizes) -> int:
    """The weights in panels, as the kernels want them for small models."""
    w = sizes.widths
    kernel = KernelSizes(w.layers, w.hidden, w.heads, w.kv_heads, w.head_dim, w.inner, w.vocabulary)
    if not (_in_c(sizes) and kernel.packs):
        return 0
    return 4 * (
        sum(layer.weights for layer in sizes.shape.counts.linears) + w.hidden * w.vocabulary
    )


def _in_c(sizes: Sizes) -> bool:
    place, width = sizes.place, sizes.widths.head_dim
    runs = place.device == "cpu" and place.kernels and sizes.item == 4
    return sizes.shape.counts.fused and runs and width % calls.HEAD_MULTIPLE == 0


def _cache(sizes: Sizes) -> Need:
    per_position = cache_bytes_per_position(sizes)
    if not sizes.shape.counts.fused:
        # Every layer's cache is copied when it grows, one after the other.
        grown = sizes.rows * sizes.longest * per_position
        return Need("KV cache", grown + 2 * grown // sizes.widths.layers, grown)
    if _in_c(sizes):
        block = calls.BLOCK * per_position
        shared = sizes.prompt // calls.BLOCK
        own = -(-sizes.longest // calls.BLOCK) - shared
        blocks = sizes.groups * shared + sizes.rows * own
        return Need("KV cache", blocks * block, cpu.SLAB_BLOCKS * block)
    capacity = sizes.longest + 1
    if sizes.place.device == "cuda":
        capacity = -(-(sizes.longest + cuda.STRIDE) // cuda.POSITIONS) * cuda.POSITIONS
    total = sizes.rows * capacity * per_position
    return Need("KV cache", total, total)


def _logits(sizes: Sizes) -> Need:
    """A token's logits of every row, as often as `sampler.sample` holds them."""
    one = 4 * sizes.rows * sizes.widths.vocabulary
    total = one * _tensors(sizes.recipe.generation, sizes.widths.vocabulary)
    if sizes.place.device == "cuda" and sizes.shape.counts.fused:
        # Each graph keeps its own: one for every further 256 positions.
        graphs = -(-sizes.completion // cuda.POSITIONS) + 1
        total += graphs * sizes.rows * sizes.widths.vocabulary * sizes.rollout_item
    return Need("logits", total, one)


def _tensors(generation: GenerationSection, vocabulary: int) -> int:
    """Logits, log-probabilities, probabilities, and what drawing makes of them."""
    if generation.top_p < 1:
        return 10  # sorted with 64-bit places, running sums, and back
    if generation.top_k or generation.min_p:
        return 6
    return 5 if vocabulary <= _SEARCHED_WHOLE else 4


def _prompts(sizes: Sizes) -> Need:
    """One block's values for the prompts that are read at a time, nothing kept of them."""
    most = cpu.PREFILL_TOKENS if _in_c(sizes) else cuda.PREFILL_TOKENS
    tokens = sizes.groups * sizes.prompt
    if sizes.shape.counts.fused:
        tokens = max(min(tokens, most), sizes.rows)
    w = sizes.widths
    attention = 2 * w.hidden + (3 * w.heads + 3 * w.kv_heads) * w.head_dim
    widest = max(attention, 2 * w.hidden + 3 * w.inner)
    return Need("activations", tokens * widest * sizes.rollout_item, tokens * w.inner * 4)
