"""`aha export`: a folder that transformers and vLLM load, with a card that says what it is.

Left out: quantised formats. llama.cpp's own converter writes GGUF; its command is told.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig

from aha.commands.card import model_card
from aha.commands.subject import Subject, find_subject, recipe_for
from aha.model.load import load_model, load_tokenizer
from aha.recipe import Recipe, dump_recipe
from aha.types import UserError
from aha.visible import did_you_mean

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Request:
    """What `aha export` was asked; `dtype` None keeps the weights' own."""

    target: str
    folder: Path
    recipe: str | None = None
    dtype: str | None = None
    push: str | None = None
    gguf: bool = False


def export(request: Request) -> list[str]:
    """Write the folder, push it where asked; what there is to say about it.

    Errors: UserError for a folder that holds something, a type that is not known, a missing token.
    """
    subject = find_subject(request.target)
    recipe = recipe_for(subject, request.recipe, ())
    dtype = _dtype(request.dtype)
    _require_empty(request.folder)
    if request.push is not None:
        _require_token(request.push)
    _write(subject, recipe, dtype, request.folder)
    said = [f"exported {subject.name} to {request.folder}", *_usage(request.folder)]
    if request.gguf:
        said += _gguf(request.folder)
    if request.push is not None:
        said.append(f"pushed to {_push(request.folder, request.push)}")
    return said


def _write(subject: Subject, recipe: Recipe, dtype: torch.dtype | None, folder: Path) -> None:
    """Everything into a folder beside it, renamed when whole."""
    # Adapters are folded into whole weights, whatever the base was quantised to in training.
    section = recipe.model.model_copy(update={"quantization": "none"})
    tokenizer, model = load_tokenizer(section), load_model(section)
    if dtype is not None:
        model = model.to(dtype)
    # The run's own recipe names the model it began from, not the checkpoint.
    made_by = subject.run.recipe() if subject.run is not None else recipe
    model.generation_config = _generation(recipe, model.generation_config)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as parent:
            whole = Path(parent) / "whole"
            model.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
            (whole / "recipe.yaml").write_text(dump_recipe(made_by), encoding="utf-8")
            (whole / "README.md").write_text(model_card(subject, made_by, model), encoding="utf-8")
            if folder.exists():
                folder.rmdir()
            os.replace(whole, folder)
    except OSError as error:
        raise UserError(f"the folder {str(folder)!r} cannot be written: {error}.") from None


def _generation(recipe: Recipe, base: GenerationConfig) -> GenerationConfig:
    """How the model was sampled in training, so that others sample it so by default."""
    generation = recipe.generation
    return GenerationConfig(
        do_sample=True,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
        max_new_tokens=generation.max_completion_length,
        bos_token_id=base.bos_token_id,
        eos_token_id=base.eos_token_id,
        pad_token_id=base.pad_token_id,
    )


def _usage(folder: Path) -> list[str]:
    return [
        f"in Python: AutoModelForCausalLM.from_pretrained({str(folder)!r})",
        f"with vLLM: vllm serve {folder}",
    ]


def _gguf(folder: Path) -> list[str]:
    return [
        "for llama.cpp, in a checkout of https://github.com/ggml-org/llama.cpp:",
        f"  python convert_hf_to_gguf.py {folder.resolve()} --outfile {folder.name}.gguf",
        f"  llama-quantize {folder.name}.gguf {folder.name}-q4.gguf Q4_K_M",
    ]


def _dtype(name: str | None) -> torch.dtype | None:
    if name is not None and name not in _DTYPES:
        near = did_you_mean(name, _DTYPES)
        raise UserError(f"--dtype is {name!r}; allowed are {', '.join(_DTYPES)}.{near}")
    return None if name is None else _DTYPES[name]


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} exists and holds something; choose another folder.")


def _require_token(repository: str) -> None:
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            f"--push {repository} needs a token of the hub: `hf auth login`, or HF_TOKEN."
        )


def _push(folder: Path, repository: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        hub.create_repo(repository, exist_ok=True, private=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"--push {repository} failed: {error}. {folder} is whole.") from None
