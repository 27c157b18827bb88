"""The policy: a causal LM and its tokenizer, found without surprises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from aha.sections import ModelSection
from aha.tiny import TINY_NAME, weights_path
from aha.types import UserError


def find_model(name: str) -> str:
    """Where a model is: the shipped one, a folder, or a hub name that exists.

    Errors: UserError at once for a folder that does not exist or a hub name that cannot be
    had; nothing is retried.
    """
    if name == TINY_NAME:
        return str(weights_path())
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model.name: the folder {name!r} has no config.json.")
        return str(path)
    looks_like_hub = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    if not looks_like_hub:
        raise UserError(
            f"model.name: {name!r} does not exist; allowed are {TINY_NAME!r}, a folder with a "
            "Hugging Face model, or a hub name such as Qwen/Qwen2.5-0.5B."
        )
    _require_on_hub(name)
    return name


def _require_on_hub(name: str) -> None:
    """One look into the cache, then one request; transformers alone would retry for minutes."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=10)
    except HFValidationError:
        raise UserError(f"model.name: {name!r} is not a valid hub name.") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"model.name: {name!r} is neither a folder here nor a model on the hub."
        ) from None
    except Exception as error:  # whatever the network layer raises, it means the same to a user
        raise UserError(
            f"model.name: {name!r} is no folder here, is not in the cache, and the hub could not "
            f"be reached ({type(error).__name__})."
        ) from None


def choose_device(section: ModelSection) -> torch.device:
    """The recipe's device. Errors: UserError for a GPU that is not there."""
    if section.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if section.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is 'cuda', but PyTorch sees no GPU; allowed here is 'cpu'.")
    return torch.device(section.device)


def choose_dtype(section: ModelSection) -> torch.dtype:
    """The type of the weights.

    float32 unless asked otherwise: the spacing of bfloat16 near a weight of 0.02 is 1e-4, a
    hundred times an update at a learning rate of 1e-6.
    """
    return torch.bfloat16 if section.dtype == "bfloat16" else torch.float32


def choose_autocast(section: ModelSection) -> torch.dtype | None:
    """The type of large products in training where it is not that of the weights.

    By itself bfloat16 on a GPU that has it, and nothing on a CPU: there the casts cost what the
    products save on small models, and log-probabilities would differ from the sampler's.
    """
    if section.dtype == "bfloat16" or section.autocast == "none":
        return None
    if section.autocast == "bfloat16":
        return torch.bfloat16
    on_gpu = choose_device(section).type == "cuda"
    return torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported() else None


def load_tokenizer(section: ModelSection, source: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe's model, or of the checkpoint at `source`."""
    return _load(AutoTokenizer, section, source or find_model(section.name))


def load_model(section: ModelSection, source: str | None = None) -> PreTrainedModel:
    """The recipe's model, or the checkpoint at `source`, on its device and without dropout."""
    device = choose_device(section)
    model = _load(
        AutoModelForCausalLM,
        section,
        source or find_model(section.name),
        dtype=choose_dtype(section),
        attn_implementation=section.attn_implementation,
    )
    for module in model.modules():
        # The sampler runs without dropout; the trainer must score the same distribution.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model.to(device)


def _load(factory: Any, section: ModelSection, source: str, **options: Any) -> Any:
    # Its bars for loading and saving weights would break ours, and say nothing of the run.
    transformers_logging.disable_progress_bar()
    try:
        return factory.from_pretrained(
            source, trust_remote_code=section.trust_remote_code, **options
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(f"model.name: {section.name!r} could not be loaded: {first}") from None
