"""Predicted memory of a run, phase by phase, from its recipe and its model's configuration.

Every completion is taken to be as long as the recipe allows, and every group to have signal: the
most that a step can need, unless told how long completions are. The peak is the largest phase,
from the second step on, when Adam's moments are there.

| part | is |
|---|---|
| before | Python, PyTorch and the other libraries; on a GPU its context, an assumption |
| weights | of the policy, adapters among them; a quantised layer with its scales |
| gradients | of what is trained, in its type |
| optimizer | Adam's two moments of what is trained |
| reference | a frozen copy for the KL term; adapters need none |
| copies | weights that exist twice for a while: in another type, folded together, being saved |
| KV cache | keys and values of the completions that are written at a time |
| activations | what the forward pass keeps (`aha.train.memory`), and one block's gradients |
| logits | of the tokens that the head takes at a time, a few tensors of that size |
| held | freed, but kept by the C library's heap for the next small tensor (on a CPU) |
| fragments | holes between tensors: a share that was measured (on a CPU) |

Left out: what PyTorch's allocator does not fill on a GPU, the host's memory for a run there, and
what a reward or a data set of the user's own takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aha.doctor.needs import Need, parts_of
from aha.doctor.rollouts import rollout_needs
from aha.doctor.shapes import Shape
from aha.doctor.sizes import Place, Sizes, sizes_of
from aha.doctor.training import gradients, training_needs
from aha.recipe import Recipe

PARTS = (
    "before", "weights", "gradients", "optimizer", "reference", "copies", "KV cache",
    "activations", "logits", "held", "fragments",
)  # fmt: skip


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
    """What a run needs; `trained` of the `parameters` have gradients.

    `tokens_per_microbatch` is the recipe's budget, or what the trainer would choose.
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
    sizes = sizes_of(recipe, shape, place, prompt_tokens, completion_tokens)
    always = [
        Need("before", place.before, 0),
        Need("weights", sizes.weights_bytes, 0),
        Need("reference", _reference(sizes), 0),
    ]
    trained = [
        Need("optimizer", 2 * sizes.trained_bytes, 0),
        Need("copies", _mapped(sizes) + _being_saved(sizes), 0),
    ]
    held = parts_of(
        {
            "rollout": rollout_needs(sizes),
            "training": training_needs(sizes),
            "optimizer step": gradients(sizes),
            "checkpoint": [],
        },
        [*always, *trained],
        heap=place.device == "cpu",
    )
    loading = parts_of({"loading": [Need("copies", _loading(sizes), 0)]}, always, heap=False)
    trainable = sizes.trained_bytes // (sizes.item if recipe.lora is None else 4)
    return Prediction(
        parameters=shape.counts.parameters + (trainable if recipe.lora is not None else 0),
        trained=trainable,
        tokens_per_microbatch=sizes.budget,
        phases=tuple(_phase(name, parts) for name, parts in (loading | held).items()),
    )


def _phase(name: str, parts: Mapping[str, int]) -> Phase:
    return Phase(name, {part: parts[part] for part in PARTS if parts.get(part)})


def _reference(sizes: Sizes) -> int:
    recipe = sizes.recipe
    return sizes.weights_bytes if recipe.grpo.beta and recipe.lora is None else 0


def _loading(sizes: Sizes) -> int:
    """The file's pages beside the weights that are made of them; mapped as they are otherwise."""
    saved = sizes.shape.saved_item
    if sizes.place.device != "cpu" or saved is None or saved == sizes.item:
        return _mapped(sizes)
    return sizes.shape.counts.parameters * saved


def _mapped(sizes: Sizes) -> int:
    """Pages of the weights' file that stay although there is another form of them.

    On a CPU weights of the file's own type are the file, mapped. As long as one layer is read
    from there all of it counts as the process's, what was stacked or quantised too.
    """
    if sizes.place.device != "cpu" or sizes.shape.saved_item != sizes.item:
        return 0
    if sizes.recipe.model.quantization != "none":
        return sizes.item * sum(layer.weights for layer in sizes.shape.counts.linears)
    return sizes.item * sum(layer.parameters for stack in sizes.stacks for layer in stack)


def _being_saved(sizes: Sizes) -> int:
    """The copy that a checkpoint is written from while training goes on."""
    if not sizes.recipe.train.save_in_background:
        return 0
    return 3 * sizes.trained_bytes if sizes.place.device == "cpu" else 0
