"""`aha export`: a folder that transformers and vLLM load, with a model card.

Left out: quantised formats. llama.cpp's own converter writes GGUF; aha prints its command.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from aha.model.gguf import SMOLLM2, SMOLLM2_HUB
from aha.model.load import load_model, load_tokenizer
from aha.recipe import Recipe, dump_recipe
from aha.runs import require_empty, writable
from aha.trained import Subject, figure_rows, find_subject, recipe_for
from aha.types import UserError
from aha.visible import did_you_mean, text_template

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(
    target: str,
    folder: Path,
    *,
    recipe: str | None = None,
    dtype: str | None = None,
    push: str | None = None,
    gguf: bool = False,
) -> list[str]:
    """Write the model to the folder, push it if asked, and return the lines to print.

    `dtype` None keeps the weights' own; `push` is the repository's name on the hub. Errors:
    UserError for a folder that holds something, an unknown dtype, a missing token.
    """
    subject = find_subject(target)
    found = recipe_for(subject, recipe, ())
    if dtype is not None and dtype not in _DTYPES:
        near = did_you_mean(dtype, _DTYPES)
        raise UserError(f"--dtype is {dtype!r}; allowed are {', '.join(_DTYPES)}.{near}")
    require_empty(folder)
    if push is not None:
        from huggingface_hub import get_token

        if get_token() is None:
            raise UserError(
                f"--push {push} needs a token of the hub: `hf auth login`, or HF_TOKEN."
            )
    _write(subject, found, dtype, folder)
    address = None if push is None else _push(folder, push)
    template = text_template("aha.trained", "exported.txt.j2", repr=repr)
    return template.render(
        name=subject.name, folder=folder, whole=folder.resolve(), gguf=gguf, address=address
    ).splitlines()


def _write(subject: Subject, recipe: Recipe, dtype: str | None, folder: Path) -> None:
    """Write everything into a temporary folder, and rename it when it is complete."""
    # Adapters are folded into whole weights, even if the base was quantised in training.
    section = recipe.model.model_copy(update={"quantization": "none"})
    tokenizer, model = load_tokenizer(section), load_model(section)
    if dtype is not None:
        model = model.to(_DTYPES[dtype])
    # The run's own recipe names the model it began from, not the checkpoint.
    made_by = subject.run.recipe() if subject.run is not None else recipe
    # The sampling of training becomes the default of other programs.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=recipe.generation.temperature,
        top_p=recipe.generation.top_p,
        top_k=recipe.generation.top_k,
        max_new_tokens=recipe.generation.max_completion_length,
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id,
    )
    with writable(folder, "FOLDER"):
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


def _push(folder: Path, repository: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        hub.create_repo(repository, exist_ok=True, private=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"--push {repository} failed: {error}. {folder} is whole.") from None


def model_card(subject: Subject, recipe: Recipe, model: PreTrainedModel) -> str:
    """Markdown for the hub, with results before training and of exactly these weights."""
    run = subject.run
    columns: dict[str, Mapping[str, Any]] = {}
    packages, seed, step, evaluated = {}, None, None, False
    if run is not None:
        environment, evaluation = run.environment(), run.evaluation()
        packages = {n: v for n, v in environment.get("packages", {}).items() if v}
        seed = environment.get("seed")
        number = Path(subject.source).resolve().name.removeprefix("step-")
        # None: the checkpoint's folder was renamed.
        step = int(number) if number.isdecimal() else None
        end = recipe.train.max_steps
        if "before" in evaluation:
            columns["before training"] = evaluation["before"]
        known = len(columns)
        if step == end and "after" in evaluation:
            columns["after training"] = evaluation["after"]
        else:
            for record in run.metrics():
                if record["step"] == step and "eval/accuracy" in record:
                    columns[f"at step {step} of {end}"] = {
                        **{key.removeprefix("eval/"): value for key, value in record.items()},
                        "ci95": (record["eval/ci95_low"], record["eval/ci95_high"]),
                        "temperature": recipe.evaluation.temperature,
                    }
        evaluated = len(columns) > known
    return text_template("aha.trained", "card.md.j2").render(
        name=subject.name,
        parameters=f"{model.num_parameters() / 1e6:,.2f}",
        dtype=str(model.dtype).split(".")[-1],
        recipe=recipe,
        hub_base=SMOLLM2_HUB if recipe.model.name == SMOLLM2 else None,
        yaml=dump_recipe(recipe),
        run=run,
        step=step,
        evaluated=evaluated,
        columns=columns,
        rows=figure_rows(list(columns.values())) if columns else (),
        packages=packages,
        seed=seed,
    )
