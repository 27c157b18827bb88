"""The policy: a causal LM and its tokenizer, found without surprises."""

from __future__ import annotations

import itertools
import math
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from aha.model.gguf import (
    INSTALL_SMOLLM2,
    SMOLLM2,
    SMOLLM2_HUB,
    converted,
    converted_smollm2,
    kept_smollm2,
    packaged_smollm2,
)
from aha.model.lora import add_adapters, base_name, is_adapter, load_adapters, with_adapter
from aha.recipe import Recipe, require_trainable
from aha.sections import ModelSection
from aha.tiny import TINY_NAME, TINY_RECIPES, weights_path
from aha.types import Unreachable, UserError
from aha.visible import did_you_mean, first_line


def find_model(name: str) -> str:
    """The place of a model: a folder with it, or a hub name that exists.

    A GGUF file's folder is made at the first call. Errors: UserError for a name without a model;
    nothing is retried.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if name in TINY_RECIPES:
        return str(weights_path(name))
    if name == SMOLLM2:
        return _find_smollm2()
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        if not (path / "config.json").is_file() and not is_adapter(path):
            raise UserError(
                f"model.name: the folder {name!r} has no config.json, and no adapter_config.json."
            )
        return str(path)
    if path.suffix.lower() == ".gguf":
        return str(converted(path))
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"model.name: {name!r} does not exist; allowed are {TINY_NAME!r}, {SMOLLM2!r}, a "
            "folder with a Hugging Face model, a .gguf file, or a hub name such as "
            f"Qwen/Qwen2.5-0.5B.{did_you_mean(name, [*TINY_RECIPES, SMOLLM2])}"
        )
    try:
        cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        raise UserError(f"model.name: {name!r} is not a valid hub name.") from None
    if not cached:
        _require_on_hub(name)
    return name


def _find_smollm2() -> str:
    """The folder that was converted before, the hub's name, or the installed package's folder.

    In this order, so that a run is resumed with the weights that it began from.
    """
    from huggingface_hub import try_to_load_from_cache

    kept = kept_smollm2()
    if kept is not None:
        return str(kept)
    if isinstance(try_to_load_from_cache(SMOLLM2_HUB, "model.safetensors"), str):
        return SMOLLM2_HUB
    try:
        _require_on_hub(SMOLLM2_HUB)
    except UserError as error:
        file = packaged_smollm2()
        if file is None:
            raise Unreachable(
                f"{error} The package that has {SMOLLM2!r} is not installed: {INSTALL_SMOLLM2}."
            ) from None
        return str(converted_smollm2(file))
    return SMOLLM2_HUB


def _require_on_hub(name: str) -> None:
    """Ask the hub once; transformers alone would retry for minutes.

    Errors: UserError if it does not have the model, Unreachable if it does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=10)
    except RepositoryNotFoundError:
        raise UserError(
            f"model.name: {name!r} is neither a folder here nor a model on the hub."
        ) from None
    except Exception as error:  # whatever the network layer raises, it means the same to a user
        raise Unreachable(
            f"model.name: {name!r} is no folder here, is not in the cache, and the hub could not "
            f"be reached ({type(error).__name__})."
        ) from None


def choose_device(section: ModelSection) -> torch.device:
    """The recipe's device. Errors: UserError for a GPU that is not there."""
    if section.device == "auto":  # not an Apple GPU: nobody has tried it
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if section.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device is 'cuda', but PyTorch sees no GPU; allowed here is 'cpu'.")
    if section.device == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "model.device is 'mps', but PyTorch sees no Apple GPU; allowed here are 'auto' and "
            "'cpu'."
        )
    return torch.device(section.device)


def choose_dtype(section: ModelSection, frozen: bool = False) -> torch.dtype:
    """The type of the weights; `frozen` ones, under adapters, are bfloat16 on a GPU that has it.

    float32 unless asked otherwise: the spacing of bfloat16 near a weight of 0.02 is 1e-4, a
    hundred times an update at a learning rate of 1e-6. What is frozen has no updates.
    """
    if section.dtype == "auto" and frozen and _on_bfloat16_gpu(section):
        return torch.bfloat16
    return torch.bfloat16 if section.dtype == "bfloat16" else torch.float32


def choose_autocast(section: ModelSection, frozen: bool = False) -> torch.dtype | None:
    """The type of large products in training where it is not that of the weights.

    By itself bfloat16 on a GPU that has it, and nothing on a CPU: there the casts cost what the
    products save on small models, and log-probabilities would differ from the sampler's.
    """
    if section.autocast == "none" or choose_dtype(section, frozen) == torch.bfloat16:
        return None
    if section.autocast == "bfloat16":
        return torch.bfloat16
    return torch.bfloat16 if _on_bfloat16_gpu(section) else None


def require_fast_bfloat16(section: ModelSection) -> None:
    """Errors: UserError for bfloat16 on a processor that computes it more slowly than float32."""
    fields = {"dtype": "float32", "autocast": "none"}
    asked = [name for name in fields if getattr(section, name) == "bfloat16"]
    if not asked or choose_device(section).type != "cpu":
        return
    slower = bfloat16_slowdown()
    # Less than that may be chance.
    if slower > 1.5:
        settings = " ".join(f"--set model.{name}={fields[name]}" for name in asked)
        raise UserError(
            f"model.{asked[0]} is 'bfloat16', in which products take {slower:.1f} times as long as "
            f"in float32 on this processor; {settings}."
        )


def bfloat16_slowdown(size: int = 256, tries: int = 5) -> float:
    """Time of a bfloat16 product on the CPU, as a multiple of a float32 product's."""
    best = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    factors = {dtype: torch.ones(size, size, dtype=dtype) for dtype in best}
    # In turns, so that what else the machine does meets both; the first of each is to warm up.
    for count, (dtype, factor) in itertools.product(range(tries + 1), factors.items()):
        started = time.perf_counter()
        factor @ factor
        spent = time.perf_counter() - started
        best[dtype] = min(best[dtype], spent if count else math.inf)
    return best[torch.bfloat16] / best[torch.float32]


def product_dtype(recipe: Recipe) -> torch.dtype:
    """The type of large products in training: what another sampler of the policy must use too."""
    section, frozen = recipe.model, recipe.lora is not None
    return choose_autocast(section, frozen) or choose_dtype(section, frozen)


def _on_bfloat16_gpu(section: ModelSection) -> bool:
    return choose_device(section).type == "cuda" and torch.cuda.is_bf16_supported(
        including_emulation=False
    )


def load_config(section: ModelSection) -> Any:
    """The configuration of the recipe's model; of an adapter's base where it is an adapter."""
    place = find_model(section.name)
    if is_adapter(Path(place)):
        place = find_model(base_name(Path(place)))
    return _load(AutoConfig, section, place)


def load_tokenizer(section: ModelSection, source: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of the recipe's model, or of the checkpoint at `source`.

    An adapter without one has its base's.
    """
    place = source or find_model(section.name)
    if is_adapter(Path(place)) and not (Path(place) / "tokenizer_config.json").is_file():
        place = find_model(base_name(Path(place)))
    return _load(AutoTokenizer, section, place)


def load_policy(recipe: Recipe, checkpoint: Path | None) -> PreTrainedModel:
    """The model to train, new or as a checkpoint has it: all of it, or adapters on a frozen base.

    Errors: UserError for a quantised model without adapters, whose weights cannot be trained.
    """
    require_trainable(recipe)
    section, lora = recipe.model, recipe.lora
    if lora is None:
        return load_model(section, str(checkpoint) if checkpoint else None)
    model = load_model(section, frozen=True)
    if checkpoint is None:
        add_adapters(model, lora, section.name, recipe.train.seed)
    else:
        load_adapters(model, checkpoint, section.name)
    return model


def load_model(
    section: ModelSection, source: str | None = None, frozen: bool = False
) -> PreTrainedModel:
    """The recipe's model, or the checkpoint at `source`, on its device and without dropout.

    An adapter comes with its base. `frozen` says that its weights will not be trained.
    Errors: UserError for quantised weights without bitsandbytes.
    """
    device, place = choose_device(section), source or find_model(section.name)
    if device.type == "cuda":
        # It would build a plan for every new length of a batch; `cudnn_attention` says more.
        torch.backends.cuda.enable_cudnn_sdp(False)
    adapter = Path(place) if is_adapter(Path(place)) else None
    options: dict[str, Any] = {}
    if section.quantization != "none":
        if find_spec("bitsandbytes") is None:
            raise UserError(
                f"model.quantization is {section.quantization!r}, which needs bitsandbytes: "
                "pip install 'aha-zero[quantized]'."
            )
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=section.quantization == "nf4",
            load_in_8bit=section.quantization == "int8",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=choose_dtype(section, frozen=True),
        )
    model: PreTrainedModel = _load(
        AutoModelForCausalLM,
        section,
        find_model(base_name(adapter)) if adapter else place,
        dtype=choose_dtype(section, frozen),
        attn_implementation=section.attn_implementation,
        **options,
    )
    if adapter is not None:
        model = with_adapter(model, adapter)
    switch_off_dropout(model)
    # transformers does not train the embedding of this token. Many chat models end a turn with it.
    model.get_input_embeddings().padding_idx = None
    # In eval mode bitsandbytes computes otherwise, and on a CPU without a gradient; nothing else
    # here depends on the mode, and the sampler must draw from what the trainer scores.
    return model.train() if options else model.to(device)


def switch_off_dropout(model: torch.nn.Module) -> None:
    """The sampler runs without dropout; the trainer must score the same distribution.

    Some models have modules for it, others a number under a name such as `attention_dropout` or
    `layerdrop`, in a module or in the configuration that it reads.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for holder in filter(None, (module, getattr(module, "config", None))):
            for name, value in vars(holder).items():
                if "drop" in name and isinstance(value, float):
                    setattr(holder, name, 0.0)


def _load(factory: Any, section: ModelSection, source: str, **options: Any) -> Any:
    # Its bars for loading and saving weights would break ours, and say nothing of the run.
    transformers_logging.disable_progress_bar()
    try:
        return factory.from_pretrained(
            source, trust_remote_code=section.trust_remote_code, **options
        )
    except (OSError, ValueError) as error:
        first = first_line(error)
        if "does not support an attention implementation" in first:
            raise UserError(
                f"model.attn_implementation is {section.attn_implementation!r}, which "
                f"{section.name!r} does not have; --set model.attn_implementation=eager."
            ) from None
        raise UserError(f"model.name: {section.name!r} could not be loaded: {first}") from None


def positions_of(config: Any) -> int | None:
    """The most tokens that prompt and completion may have together; none without a limit.

    Beyond it GPT-2 fails, and other models write worse text without an error. State-space models
    and ALiBi have no limit. `max_position_embeddings` may be the length of the first training or
    the length that the rotary embedding is scaled to, so the larger of it and the scaled length
    counts.
    """
    text = config.get_text_config()
    stated = getattr(text, "max_position_embeddings", None)
    if stated is None or getattr(text, "alibi", False):
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    # Some models have one rotary embedding for each type of layer.
    kinds = [kind for kind in (rope, *rope.values()) if isinstance(kind, dict)]
    scaled = [
        int((kind.get("factor") or 1) * (kind.get("original_max_position_embeddings") or stated))
        for kind in kinds
    ]
    return max([stated, *scaled])


def require_positions(config: Any, prompt_tokens: int, completion_tokens: int) -> None:
    """Errors: UserError where the longest prompt and completion are too long for the model."""
    limit = positions_of(config)
    if limit is None or prompt_tokens + completion_tokens <= limit:
        return
    allowed = limit - prompt_tokens
    way = f"allowed is at most {allowed}" if allowed > 0 else "the prompts must become shorter"
    raise UserError(
        f"generation.max_completion_length is {completion_tokens} and the longest prompt has "
        f"{prompt_tokens} tokens, but the model ({config.model_type}) takes {limit} tokens "
        f"together; {way}."
    )
