"""Judgement on a recipe: is its model to be had, what it asks of libraries, memory, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from aha.doctor.advice import Advice, settings_of, with_adapters
from aha.doctor.asking import Subject
from aha.doctor.facts import Disk
from aha.doctor.finding import Finding, note, ok, problem
from aha.doctor.hub import Hub
from aha.doctor.packages import Find
from aha.recipe import Recipe
from aha.tiny import TINY_NAME
from aha.train.memory import adapted_layers

_WEIGHTS_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip
_PUBLISHED_ITEM = 2  # bfloat16, where a configuration does not say


def judge_settings(subject: Subject, find: Find) -> list[Finding]:
    """What the recipe asks for that cannot work, wherever it runs."""
    recipe = subject.recipe
    return [
        finding
        for finding in (
            _engine(recipe),
            _attention(recipe, find),
            _quantization(recipe, find),
            _adapters(subject),
            _length(subject),
        )
        if finding is not None
    ]


def judge_model(subject: Subject, hub: Hub, cached: Callable[[str, str], bool]) -> Finding:
    """Whether the weights are here or can be fetched; `cached` says what the hub's cache holds."""
    shape, name = subject.shape, subject.recipe.model.name
    what = f"{name}, {shape.counts.parameters / 1e6:,.2f} M parameters"
    if name == TINY_NAME or Path(os.path.expanduser(name)).is_dir():
        return ok("model", f"{what}, on this machine")
    if any(cached(name, file) for file in _WEIGHTS_FILES):
        return ok("model", f"{what}, in the hub's cache")
    size = _gib(shape.counts.parameters * (shape.saved_item or _PUBLISHED_ITEM))
    if hub.reachable:
        return ok("model", f"{what}; its {size} will be downloaded (or it is refused: see token)")
    found = f"{what}: not on this machine, and {hub.offline or hub.host + ' does not answer'}"
    advice = f"With a network: hf download {name}; or --set model.name=FOLDER with the model."
    return problem("model", found, advice, stops=True)


def judge_memory(subject: Subject, advice: Advice) -> Finding:
    """Whether the peak fits; a problem says what would."""
    as_it_is, limit = advice.options[0], subject.place.limit
    found = f"{_gib(as_it_is.peak)} at its peak ({as_it_is.phase}), {_gib(limit)} to be had"
    if as_it_is.fit == "tight":
        text = "It fits by less than a prediction may be wrong; --measure, there, would tell."
        return note("memory", found, text)
    if advice.fits:
        return ok("memory", found)
    if advice.recommended is None:
        size = f"{advice.largest or 0:,.0f}"
        text = f"Take a smaller model: about {size} parameters of this shape would fit."
        return problem("memory", found, text, stops=True)
    settings = " ".join(f"--set {setting}" for setting in advice.recommended.settings)
    return problem("memory", found, f"Take {settings}.", stops=True)


def judge_checkpoints(subject: Subject, checkpoint: int, disks: tuple[Disk, ...]) -> Finding:
    """Room for the checkpoints that are kept and the one being written."""
    kept = subject.recipe.train.save_total_limit
    needed = (kept + 1) * checkpoint
    found = f"{kept + 1} of {_gib(checkpoint)} each at a time"
    free = next(disk.free for disk in disks if disk.holds == "runs")
    if free < needed:
        advice = f"Free {_gib(needed - free)} more, or --output on a larger disk."
        return problem("checkpoints", f"{found}, {_gib(free)} free", advice, free < checkpoint)
    return ok("checkpoints", f"{found}, {_gib(free)} free")


def _engine(recipe: Recipe) -> Finding | None:
    if recipe.engine == "native":
        return None
    advice = "Below is what the native engine would take; TRL takes more (docs/performance.md)."
    return note("engine", f"{recipe.engine} is not predicted", advice)


def _attention(recipe: Recipe, find: Find) -> Finding | None:
    name = recipe.model.attn_implementation
    if name != "flash_attention_2" or find("flash-attn") is not None:
        return None
    advice = "pip install flash-attn, or --set model.attn_implementation=sdpa."
    return problem("attention", f"{name} without flash-attn", advice, stops=True)


def _quantization(recipe: Recipe, find: Find) -> Finding | None:
    kind = recipe.model.quantization
    if kind == "none":
        return None
    if recipe.lora is None:
        adapters = " ".join(f"--set {setting}" for setting in settings_of(with_adapters(recipe)))
        advice = f"Quantised weights are not trained: {adapters} trains adapters on them."
        return problem("quantization", f"{kind} without adapters", advice, stops=True)
    if find("bitsandbytes") is None:
        advice = "pip install 'aha-zero[quantized]'."
        return problem("quantization", f"{kind} without bitsandbytes", advice, stops=True)
    return None


def _adapters(subject: Subject) -> Finding | None:
    lora, counts = subject.recipe.lora, subject.shape.counts
    if lora is None or lora.target_modules == "all-linear":
        return None
    names = {layer.name for layer in adapted_layers(counts, lora)}
    unknown = [name for name in lora.target_modules if name not in names]
    if not unknown:
        return None
    allowed = ", ".join(sorted({layer.name for layer in counts.linears}))
    advice = f"Allowed are all-linear or {allowed}."
    return problem("lora.target_modules", f"no layer {unknown[0]!r}", advice, stops=True)


def _length(subject: Subject) -> Finding | None:
    limit, prompt = subject.shape.positions, subject.prompts.tokens
    completion = subject.recipe.generation.max_completion_length
    if limit is None or prompt + completion <= limit:
        return None
    found = f"prompts of {prompt} and completions of {completion} tokens; the model takes {limit}"
    advice = f"Take --set generation.max_completion_length={max(1, limit - prompt)} or less."
    return problem("length", found, advice, stops=not subject.prompts.assumed)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
