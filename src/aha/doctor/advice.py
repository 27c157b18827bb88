"""What would fit: other settings of a recipe, their predicted peaks, and the one to take.

Settings that change no result come first (smaller micro-batches, checkpointing, fewer rows at a
time), then adapters, then adapters on a quantised base. All weights in bfloat16 are shown, but
never recommended: most updates are rounded away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aha.doctor.asking import Subject
from aha.doctor.memory import Prediction, predict
from aha.recipe import Recipe, parse_recipe

Changes = Mapping[str, Any]
Fit = Literal["yes", "tight", "no"]
# Predictions were up to a tenth too low (docs/doctor.md).
_ROOMY = 0.9
# Adapters want about ten times the learning rate of all weights (docs/lora.md).
_ADAPTERS_RATE = 10
_TOKENS, _ROWS = "train.tokens_per_microbatch", "generation.max_rows"
_CHECKPOINTING: Changes = {"train.gradient_checkpointing": True}


@dataclass(frozen=True)
class Option:
    """A change of settings with its predicted peak in bytes and the phase that has it.

    `tight` fits by less than a prediction may be wrong.
    """

    changes: Changes
    peak: int
    phase: str
    fit: Fit

    @property
    def fits(self) -> bool:
        return self.fit != "no"

    @property
    def settings(self) -> tuple[str, ...]:
        return settings_of(self.changes)


@dataclass(frozen=True)
class Advice:
    """The options beside the recipe as it is, which comes first.

    `recommended`: the first that fits, in the order of what they cost, with room if one does so;
    none where nothing fits.
    `largest`: parameters of a model of this shape that would fit with the lightest settings, where
    this one does not.
    """

    options: tuple[Option, ...]
    recommended: Option | None
    largest: int | None

    @property
    def fits(self) -> bool:
        return self.options[0].fits


def advise(subject: Subject) -> Advice:
    """The table of options for a subject, and what to take of it."""
    as_it_is = option(subject, {})
    shown = [as_it_is, *(option(subject, changes) for changes in _alternatives(subject))]
    if as_it_is.fits:
        return Advice(tuple(shown), as_it_is, None)
    ladder = [option(subject, changes) for changes in _ladder(subject)]
    fitting = [rung for rung in ladder if rung.fits]
    recommended = next((rung for rung in fitting if rung.fit == "yes"), None)
    recommended = recommended or next(iter(fitting), None)
    if recommended is not None and recommended not in shown:
        shown.append(recommended)
    largest = None if recommended else _largest(subject, min(ladder, key=lambda rung: rung.peak))
    return Advice(tuple(shown), recommended, largest)


def settings_of(changes: Changes) -> tuple[str, ...]:
    """Changes as `--set` takes them."""
    return tuple(f"{key}={_yaml(value)}" for key, value in changes.items())


def with_adapters(recipe: Recipe) -> Changes:
    """The changes that train adapters instead of all weights: a `lora` section and its rate."""
    rate = float(f"{_ADAPTERS_RATE * recipe.optimizer.learning_rate:.6g}")
    return {"lora": {}, "optimizer.learning_rate": rate}


def option(subject: Subject, changes: Changes) -> Option:
    predicted = prediction(subject, changes)
    peak = predicted.peak
    room = peak.total / subject.place.limit
    fit: Fit = "yes" if room <= _ROOMY else "tight" if room <= 1 else "no"
    return Option(changes, peak.total, peak.name, fit)


def prediction(subject: Subject, changes: Changes) -> Prediction:
    recipe = changed(subject.recipe, changes)
    return predict(recipe, subject.shape, subject.place, subject.prompts.tokens)


def changed(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe with keys set by their dotted names."""
    data = recipe.model_dump(mode="json")
    for key, value in changes.items():
        node: Any = data
        *sections, last = key.split(".")
        for section in sections:
            node = node[section]
        node[last] = value
    return parse_recipe(data, recipe.name)


def _alternatives(subject: Subject) -> Iterator[Changes]:
    """Each by itself; those that would change nothing are left out."""
    recipe = subject.recipe
    yield from filter(None, (_fewer_tokens(subject, {}), _checkpointing(recipe)))
    yield from filter(None, [_fewer_rows(subject, {})])
    if recipe.model.dtype != "bfloat16":
        yield {"model.dtype": "bfloat16"}
    if recipe.lora is None:
        yield with_adapters(recipe)
    if recipe.model.quantization == "none":
        yield _nf4(recipe)


def _ladder(subject: Subject) -> Iterator[Changes]:
    """From what costs least to what saves most."""
    recipe = subject.recipe
    bases: list[Changes] = [{}]
    if recipe.lora is None:
        bases.append(with_adapters(recipe))
    if recipe.model.quantization == "none":
        bases.append(_nf4(recipe))
    for base in bases:
        if base:
            yield base
        for savings in _savings(subject, base):
            yield {**base, **savings}


def _savings(subject: Subject, base: Changes) -> Iterator[Changes]:
    """Together only what single ones do not reach: no result changes, but a step takes longer."""
    tokens, rows = _fewer_tokens(subject, base), _fewer_rows(subject, base)
    checkpointing = _checkpointing(subject.recipe)
    yield from filter(None, (tokens, checkpointing, rows, {**tokens, **rows}))
    both = {**base, **checkpointing}
    tokens = _fewer_tokens(subject, both)
    yield from filter(None, ({**checkpointing, **tokens}, {**checkpointing, **rows}))
    yield {**checkpointing, **tokens, **rows}


def _nf4(recipe: Recipe) -> Changes:
    adapters = with_adapters(recipe) if recipe.lora is None else {}
    return {**adapters, "model.quantization": "nf4"}


def _checkpointing(recipe: Recipe) -> Changes:
    return {} if recipe.train.gradient_checkpointing else _CHECKPOINTING


def _fewer_tokens(subject: Subject, base: Changes) -> Changes:
    """The largest half, quarter ... of the budget whose update fits, a row at least."""
    budget = prediction(subject, base).tokens_per_microbatch
    longest = subject.prompts.tokens + subject.recipe.generation.max_completion_length
    found: Changes = {}
    while budget // 2 >= longest:
        budget //= 2
        found = {_TOKENS: budget}
        if _phase(subject, {**base, **found}, "training") <= subject.place.limit:
            break
    return found


def _fewer_rows(subject: Subject, base: Changes) -> Changes:
    """Likewise of the rows in the cache, a group at least."""
    generation = subject.recipe.generation
    rows = min(
        generation.max_rows, subject.recipe.grpo.prompts_per_step * generation.num_generations
    )
    found: Changes = {}
    while rows // 2 >= generation.num_generations:
        rows //= 2
        found = {_ROWS: rows}
        if _phase(subject, {**base, **found}, "rollout") <= subject.place.limit:
            break
    return found


def _phase(subject: Subject, changes: Changes, name: str) -> int:
    phases = prediction(subject, changes).phases
    return next(phase.total for phase in phases if phase.name == name)


def _largest(subject: Subject, lightest: Option) -> int:
    """All but what was there before taken as proportional to the parameters: an estimate."""
    before, limit = subject.place.before, subject.place.limit
    share = max(0.0, (limit - before) / (lightest.peak - before))
    return int(subject.shape.counts.parameters * share)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
