"""A model's sizes, from its configuration alone: built on torch's meta device, without weights.

The configurations of the shipped recipes' models are written down here, so that their memory can
be predicted where there is no network. Left out: any look at the weights themselves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen2Config

from aha.bench.spec import SHAPES
from aha.model.lora import base_name, is_adapter
from aha.rollout.positions import positions_of
from aha.sections import ModelSection
from aha.tiny import TINY_NAME, weights_path
from aha.train.memory import Counts, Widths, counts_of
from aha.types import Unreachable, UserError

# config.json of huggingface.co/Qwen/Qwen2.5-*, base and -Instruct alike; the three smaller stand
# in `aha.bench.spec` already.
_SHAPE_7B: dict[str, Any] = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18_944, "vocab_size": 152_064,
    "tie_word_embeddings": False,
}  # fmt: skip
PUBLIC: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-0.5B": SHAPES["qwen2.5-0.5b"],
    "Qwen/Qwen2.5-1.5B": SHAPES["qwen2.5-1.5b"],
    "Qwen/Qwen2.5-3B": SHAPES["qwen2.5-3b"],
    "Qwen/Qwen2.5-7B": _SHAPE_7B,
}


@dataclass(frozen=True)
class Shape:
    """A model without its weights.

    `saved_item`: bytes of a weight in its files, none where the configuration does not say.
    `known_from`: where the configuration was found. `positions`: tokens of the longest text.
    """

    name: str
    widths: Widths
    counts: Counts
    saved_item: int | None
    known_from: str
    positions: int | None


def shape_of(section: ModelSection, config_file: Path | None = None, online: bool = True) -> Shape:
    """The shape of a recipe's model; `config_file` is a config.json to read instead.

    Looked for in a folder, the hub's cache, the table here, and on the hub when `online`.
    Errors: UserError where there is no configuration or it is none of a causal language model.
    """
    config, known_from = _found(section, config_file, online)
    return measured(config, section.name, known_from, section.trust_remote_code)


def public_shape(name: str) -> Shape | None:
    """A shape of the table here, `-Instruct` or not."""
    sizes = PUBLIC.get(name.removesuffix("-Instruct"))
    if sizes is None:
        return None
    config = Qwen2Config(**sizes, dtype="bfloat16")
    return measured(config, name, "its published configuration, shipped with aha")


def measured(config: Any, name: str, known_from: str, trust_remote_code: bool = False) -> Shape:
    """The shape of a configuration, counted on the meta device.

    Errors: UserError where it is none of a causal language model of attention blocks.
    """
    dtype = getattr(config, "dtype", None)
    try:
        text = config.get_text_config()
        text.num_attention_heads  # noqa: B018
        widths = Widths.of(text)
        counts = counts_of(config, trust_remote_code)
    except (AttributeError, ValueError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(
            f"model.name: {name!r} is no causal language model of attention blocks, which alone "
            f"are predicted: {first}"
        ) from None
    return Shape(
        name=name,
        widths=widths,
        counts=counts,
        saved_item=dtype.itemsize if isinstance(dtype, torch.dtype) else None,
        known_from=known_from,
        positions=positions_of(config),
    )


def _found(section: ModelSection, config_file: Path | None, online: bool) -> tuple[Any, str]:
    name, trust = section.name, section.trust_remote_code
    if config_file is not None:
        if not config_file.is_file():
            raise UserError(f"--config: {str(config_file)!r} is no file.")
        return _read(str(config_file), trust, "--config"), f"{config_file}"
    if name == TINY_NAME:
        return _read(str(weights_path()), trust, "model.name"), "the package"
    folder = Path(os.path.expanduser(name))
    if folder.is_dir():
        if is_adapter(folder):
            base = section.model_copy(update={"name": base_name(folder)})
            return _found(base, None, online)
        return _read(str(folder), trust, "model.name"), f"{folder}"
    return _found_by_hub_name(section, online)


def _found_by_hub_name(section: ModelSection, online: bool) -> tuple[Any, str]:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, trust = section.name, section.trust_remote_code
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        raise UserError(
            f"model.name: {name!r} is neither a folder here nor a valid hub name."
        ) from None
    if isinstance(cached, str):
        return _read(cached if not trust else name, trust, "model.name"), "the hub's cache here"
    sizes = PUBLIC.get(name.removesuffix("-Instruct"))
    if sizes is not None:
        config = Qwen2Config(**sizes, dtype="bfloat16")
        return config, "its published configuration, shipped with aha"
    if online:
        return _read(name, trust, "model.name"), "the hub"
    raise Unreachable(
        f"model.name: {name!r} is no folder here, not in the cache, and the hub is not to be had; "
        "give its config.json with --config FILE."
    )


def _read(source: str, trust: bool, key: str) -> Any:
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=trust)
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{key}: {source!r} has no usable configuration: {first}") from None
