"""What an update holds beside weights and optimizer: gradients, activations, logits."""

from __future__ import annotations

from aha.doctor.needs import Need
from aha.doctor.sizes import Sizes, tensors
from aha.grpo import logprobs
from aha.train.memory import kept_tensors, logits_per_token

_LOGITS_AT_ONCE = 3  # logits, probabilities, a temporary (`aha.grpo.logprobs`)


def training_needs(sizes: Sizes) -> list[Need]:
    """The largest moment of an update: the head's part, the last block's, or its end.

    The first micro-batch's gradients come as its activations go; the next finds them there.
    """
    all_of_them, again = gradients(sizes), sizes.micro_batches > 1
    there = all_of_them if again else all_of_them[:1]
    # A block's gradient that is added to what is there already.
    largest = max(need.piece for need in all_of_them[1:]) if again else 0
    one_more = Need("gradients", largest, largest)
    logits, last = _logits(sizes), _logits(sizes, tensors=1)
    # The head's gradient is made when its first chunk of tokens is done.
    before = there if again or _chunks(sizes) > 1 else []
    always = [*_activations(sizes), _cast_weights(sizes)]
    moments = (
        [*always, *before, logits],
        [*always, *there, last],
        [*always, *there, *_moving(sizes), one_more],
        all_of_them,
    )
    return max(moments, key=lambda needs: sum(need.total for need in needs))


def gradients(sizes: Sizes) -> list[Need]:
    """By the tensors that they are in; the head's comes first, and stacks are one tensor."""
    if sizes.recipe.lora is not None:
        return [Need("gradients", 0, 0), Need("gradients", sizes.trained_bytes, 0)]
    stacked = {
        layer.name: sizes.item * sum(x.inputs * x.outputs for x in stack)
        for stack in sizes.stacks
        for layer in stack
    }
    first, *layers, rest = tensors(sizes.shape, sizes.item)
    named = zip(sizes.shape.counts.linears, layers, strict=True)
    pieces = [(total, stacked.get(layer.name, piece)) for layer, (total, piece) in named]
    return [Need("gradients", total, piece) for total, piece in (first, *pieces, rest)]


def _activations(sizes: Sizes) -> list[Need]:
    """What the forward pass keeps, by tensor: `kept_per_token`, without the logits."""
    w, how, tokens = sizes.widths, sizes.how, sizes.micro_rows * sizes.longest
    stream = tokens * w.hidden * sizes.item
    blocks = 1 if how.recompute else w.layers
    needs = [
        Need("activations", tokens * size * blocks, tokens * size) for size in kept_tensors(w, how)
    ]
    return [
        *needs,
        Need("activations", stream * w.layers * how.recompute, stream),
        Need("activations", 4 * stream, stream),
    ]


def _moving(sizes: Sizes) -> list[Need]:
    """Gradients of a block's values: of the stream twice, of gate and up."""
    w, tokens = sizes.widths, sizes.micro_rows * sizes.longest
    stream, inner = tokens * w.hidden * sizes.item, tokens * w.inner * sizes.product_item
    return [Need("activations", 2 * stream, stream), Need("activations", 2 * inner, 2 * inner)]


def _logits(sizes: Sizes, tensors: int = _LOGITS_AT_ONCE) -> Need:
    """Of a chunk of the head's tokens, or of a whole micro-batch without fused blocks."""
    w, how = sizes.widths, sizes.how
    if not how.fused:
        total = sizes.micro_rows * sizes.longest * logits_per_token(w, how)
        return Need("logits", total, total)
    one = min(logprobs.LOGIT_BYTES, _all_logits(sizes))
    return Need("logits", tensors * one, one)


def _chunks(sizes: Sizes) -> int:
    """In how many parts the head takes a micro-batch's tokens."""
    return -(-_all_logits(sizes) // logprobs.LOGIT_BYTES) if sizes.how.fused else 1


def _all_logits(sizes: Sizes) -> int:
    return 4 * sizes.widths.vocabulary * sizes.micro_rows * sizes.completion


def _cast_weights(sizes: Sizes) -> Need:
    """The blocks' weights in autocast's type, which the backward pass reads again; or one
    quantised layer's as it is computed with, twice for a moment."""
    layers = sizes.shape.counts.linears
    if sizes.recipe.model.quantization != "none":
        largest = 2 * sizes.item * max((x.inputs * x.outputs for x in layers), default=0)
        return Need("copies", largest, largest)
    if sizes.product_item == sizes.item:
        return Need("copies", 0, 0)
    return Need("copies", sizes.product_item * sum(x.weights for x in layers), 0)
