"""A model with low-rank adapters (LoRA, arXiv:2106.09685), by peft: switched off, or folded in.

Adapters stay beside the frozen weights in training. Folded in, a model is as fast as one without,
and its layers are plain again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether adapters stand beside the model's weights."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def can_fold_in(model: PreTrainedModel) -> bool:
    """Whether folding in changes no result but by rounding: every adapted layer is float32."""
    layers = [layer.get_base_layer() for _, layer in _adapted(model)]
    return all(type(x) is nn.Linear and x.weight.dtype == torch.float32 for x in layers)


def folded_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with W + (alpha / r) B A in place of W; the model stays as it is."""
    return fold_in(copy.deepcopy(model))


def fold_in(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself with its adapters in its weights, and nothing left of them."""
    with torch.no_grad():
        for name, layer in _adapted(model):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    del model.peft_config
    return model


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """The model as it was before any training, while inside."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def _adapted(model: PreTrainedModel) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, x) for name, x in model.named_modules() if isinstance(x, BaseTunerLayer)]


def cast_copy(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its linear layers in another type, for products under autocast.

    All else is shared with the model and keeps its type, as training has it: a norm or an embedding
    in bfloat16 would move log-probabilities.
    """
    shared: dict[int, Any] = {id(p): p for p in model.parameters()}
    embedding = model.get_input_embeddings().weight
    for layer in model.modules():
        for p in layer.parameters(recurse=False):
            # Autocast would cast what is left, such as experts' weights, for every token.
            product = type(layer) in (nn.Linear, Conv1D) or p.ndim == 3
            if product and p is not embedding:
                shared[id(p)] = nn.Parameter(p.detach().to(dtype), requires_grad=False)
    copied = copy.deepcopy(model, shared)
    head: Any = copied.get_output_embeddings()
    if head is not None and head.weight is embedding:  # tied: two types, so two tensors
        head.weight = nn.Parameter(embedding.detach().to(dtype), requires_grad=False)
    return copied
