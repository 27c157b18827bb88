"""LoRA (arXiv:2106.09685): put adapters on a frozen base, load, save, switch off and fold in.

The work is peft's. Left out: dropout in adapters (the sampler would draw from another
distribution than the trainer scores) and adapters on the embedding or the head.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from aha.sections import LoraSection
from aha.types import RunFailure, UserError
from aha.visible import did_you_mean, first_line

if TYPE_CHECKING:
    from peft import LoraConfig

CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_NAME = "default"
# peft's file names modules as its own wrapper does; the model here has none.
_FILE_PREFIX = "base_model.model."


def is_adapter(folder: Path) -> bool:
    """True if a folder holds an adapter and no model of its own."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "config.json").is_file()


def base_name(folder: Path) -> str:
    """The model that a folder's adapter stands on. Errors: UserError when it does not say."""
    try:
        found = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        name = found["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        raise UserError(
            f"model.name: the adapter {str(folder)!r} does not name its base; "
            f"base_model_name_or_path is missing in {CONFIG_FILE}."
        )
    return name


def lora_config(model: PreTrainedModel, lora: LoraSection) -> LoraConfig:
    """peft's configuration of the adapters. Errors: UserError for layers that are not there."""
    from peft import LoraConfig

    if lora.target_modules != "all-linear":
        head = model.get_output_embeddings()
        allowed = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
        for name in lora.target_modules:
            if name not in allowed:
                raise UserError(
                    f"lora.target_modules: {name!r} is no linear layer of the model's blocks; "
                    f"allowed are all-linear or {', '.join(sorted(allowed))}."
                    f"{did_you_mean(name, allowed)}"
                )
    targets = lora.target_modules
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        use_rslora=lora.use_rslora,
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )


def add_adapters(model: PreTrainedModel, lora: LoraSection, base: str, seed: int) -> None:
    """Freeze the model and put new adapters on it, in float32; at first they change nothing.

    `base` is what a checkpoint names as its model. Errors: UserError for layers that are not there.
    """
    config = lora_config(model, lora)
    model.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(config, _NAME)
    _settle(model, base)


def load_adapters(model: PreTrainedModel, folder: Path, base: str) -> None:
    """Freeze the model and put a checkpoint's adapters on it, to be trained on.

    Errors: RunFailure when its weights are not those of its configuration.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    model.requires_grad_(False)
    model.add_adapter(LoraConfig.from_pretrained(str(folder)), _NAME)
    _settle(model, base)
    tensors = load_file(folder / _WEIGHTS_FILE)
    state = {name.removeprefix(_FILE_PREFIX): tensor for name, tensor in tensors.items()}
    found: Any = set_peft_model_state_dict(model, state, _NAME)
    missing = [name for name in found.missing_keys if ".lora_" in name]
    if missing or found.unexpected_keys:
        raise RunFailure(f"{folder}: its weights do not fit {CONFIG_FILE}: {missing[:1]}.")


def with_adapter(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base with a folder's adapter folded in; beside it where the base is quantised.

    Any kind of adapter that peft loads. Errors: UserError when peft cannot.
    """
    from peft import PeftModel

    try:
        wrapped: Any = PeftModel.from_pretrained(base, str(folder))
        quantised = getattr(base, "is_quantized", False)
        return wrapped.get_base_model() if quantised else wrapped.merge_and_unload()
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"model.name: the adapter {str(folder)!r} could not be loaded: {first_line(error)}"
        ) from None


def save_adapters(model: PreTrainedModel, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write adapters as peft does, the same bytes for the same values; `state` has their weights.

    The base's vocabulary is taken to be its own: peft would ask the hub about it.
    """
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, dict(state), _NAME, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"{_FILE_PREFIX}{name}": tensor.contiguous() for name, tensor in found.items()}
    save_file(named, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
    model.peft_config[_NAME].save_pretrained(str(folder))
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set, in any order
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(f"{text}\n", encoding="utf-8")


def trained_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: all weights, or only the adapters."""
    state: dict[str, torch.Tensor] = model.state_dict()
    if not has_adapters(model):
        return state
    return {name: tensor for name, tensor in state.items() if ".lora_" in name}


def _settle(model: PreTrainedModel, base: str) -> None:
    model.peft_config[_NAME].base_model_name_or_path = base
    for parameter in model.parameters():
        if parameter.requires_grad:
            # bfloat16 would round away most updates, as it does in the base.
            parameter.data = parameter.data.float()


def has_adapters(model: PreTrainedModel) -> bool:
    """True if the model has adapters beside its weights."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def folded(model: PreTrainedModel) -> PreTrainedModel:
    """The model that a rollout decodes: on a CPU a copy with W + (alpha / r) B A in place of W.

    It is the model itself where folding in would do more than round (an adapted layer is no
    float32 linear layer), on a GPU, and without adapters. The model is not changed.
    """
    if not hasattr(model, "peft_config") or model.device.type != "cpu":
        return model
    layers = [layer.get_base_layer() for _, layer in _adapted(model)]
    only_rounds = all(type(x) is nn.Linear and x.weight.dtype == torch.float32 for x in layers)
    if not layers or not only_rounds:
        return model
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in _adapted(copied):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(copied.get_submodule(parent), child, layer.get_base_layer())
    copied._hf_peft_config_loaded = False
    del copied.peft_config
    return copied


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """While inside, the model is as it was before training."""
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
