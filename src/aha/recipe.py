"""The recipe: all settings of a run in one YAML file, checked before anything loads.

Keys use TRL's names where TRL has one. An unknown key, a wrong type or an impossible combination
is one sentence that names the key, the value and the allowed values.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_origin

import yaml
from pydantic import Field, ValidationError, model_validator

from aha import controls, sections
from aha.sections import RewardSection, Section
from aha.tasks import TASKS
from aha.types import UserError
from aha.visible import did_you_mean, quoted

DEFAULT_RECIPE = "countdown-tiny"
# PyYAML's own errors, and those for impossible dates, too many digits and too deep a nest.
_YAML_FAULTS = (yaml.YAMLError, ValueError, RecursionError)
# Plain words in place of pydantic's, which name Python's types.
_PLAIN = {
    "model_type": "should be a mapping of keys",
    "dict_type": "should be a mapping of keys",
    "tuple_type": "should be a list",
    "too_short": "should not be empty",
    "invalid_key": "should have a text as its key",
    "int_parsing_size": "should be a smaller number",
}


class Recipe(Section):
    """All settings of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    engine: Literal["native", "trl"] = "native"
    model: sections.ModelSection = sections.ModelSection()
    lora: sections.LoraSection | None = Field(
        None, description="adapters; none: every weight is trained"
    )
    task: sections.TaskSection = sections.TaskSection()
    prompt: sections.PromptSection = sections.PromptSection()
    rewards: tuple[RewardSection, ...] = Field(
        (RewardSection(name="accuracy"), RewardSection(name="format", weight=0.1)), min_length=1
    )
    generation: sections.GenerationSection = sections.GenerationSection()
    grpo: sections.GrpoSection = sections.GrpoSection()
    length: controls.LengthSection = controls.LengthSection()
    curriculum: controls.CurriculumSection = controls.CurriculumSection()
    optimizer: sections.OptimizerSection = sections.OptimizerSection()
    train: sections.TrainSection = sections.TrainSection()
    evaluation: sections.EvaluationSection = sections.EvaluationSection()
    logging: sections.LoggingSection = sections.LoggingSection()
    trl: sections.TrlSection | None = Field(
        None, description="what engine: trl takes besides all this"
    )

    @model_validator(mode="after")
    def _check_sections(self) -> Recipe:
        if (name := self.task.name) not in TASKS:
            raise ValueError(
                f"task.name is {quoted(name)}; it should be one of {', '.join(map(repr, TASKS))}."
                f"{did_you_mean(name, TASKS)}"
            )
        owners = {key: owner for owner, task in TASKS.items() for key in task.own_keys}
        for key, owner in owners.items():
            value = getattr(self.task, key)
            if key not in TASKS[name].own_keys and value != getattr(sections.TaskSection(), key):
                raise ValueError(
                    f"task.{key} is {quoted(value)}; it goes with task.name {owner!r}, and "
                    f"task.name is {name!r}"
                )
        if TASKS[name].needs_tags and (style := self.prompt.style) in ("boxed", "hash"):
            raise ValueError(
                f"prompt.style is {style!r}; task {name!r} reads answers in tags only, so it must "
                "be another"
            )
        if self.engine == "native" and self.trl is not None:
            raise ValueError("trl is set and engine is 'native'; set engine: trl, or trl: null")
        most, group = self.generation.max_completion_length, self.generation.num_generations
        for stage in self.length.schedule:
            if stage.limit > most:
                raise ValueError(
                    f"length.schedule has a limit of {stage.limit}; allowed is at most "
                    f"generation.max_completion_length, {most}"
                )
        # The embedded model has tokens for numbers up to 199.
        most_wished = min(most, 199) if self.prompt.style == "compact" else most
        if self.length.wish is not None and self.length.wish[1] > most_wished:
            raise ValueError(
                f"length.wish is {list(self.length.wish)}; allowed here is at most {most_wished}"
            )
        if self.grpo.advantage_estimator == "gdpo" and self.length.penalty != "none":
            raise ValueError(
                f"length.penalty is {self.length.penalty!r}; with grpo.advantage_estimator 'gdpo' "
                "allowed is 'none': its weight would have no effect"
            )
        if self.grpo.reference_reset_steps and self.lora is not None:
            raise ValueError(
                f"grpo.reference_reset_steps is {self.grpo.reference_reset_steps}; allowed with "
                "lora is 0: the reference is the model without its adapters"
            )
        if self.curriculum.draw != "epochs" and self.task.easy_steps:
            raise ValueError(
                f"task.easy_steps is {self.task.easy_steps}; allowed with curriculum.draw "
                "'pass_rate' is 0"
            )
        if self.length.keep is not None and self.length.keep > group:
            raise ValueError(
                f"length.keep is {self.length.keep}; allowed is at most "
                f"generation.num_generations, {group}"
            )
        names = [reward.name for reward in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards is {names}; each name may stand once")
        return self


def shipped_recipes() -> dict[str, str]:
    """Name to YAML text of the recipes in the package."""
    folder = resources.files("aha") / "recipes"
    return {
        item.name.removesuffix(".yaml"): item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".yaml")
    }


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name or a YAML file by path, with `a.b=value` overrides.

    With another `task.name`, the keys that only the recipe's own task has are left out.
    Errors: UserError naming the key, the value and what is allowed.
    """
    shipped = shipped_recipes()
    text = shipped.get(name_or_path)
    if text is None:
        path = Path(os.path.expanduser(name_or_path))
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"recipe {name_or_path!r} cannot be read: {error}.") from None
    if text is None:
        raise UserError(
            f"recipe {name_or_path!r} is neither a file nor one of {', '.join(shipped)}."
            f"{did_you_mean(name_or_path, shipped)}"
        )
    return _parsed(text, tuple(overrides), name_or_path)


_TEXTS = {"model": "model.name", "task": "task.name", "engine": "engine"}
_NUMBERS = {
    "max_steps": "train.max_steps", "seed": "train.seed",
    "learning_rate": "optimizer.learning_rate",
}  # fmt: skip


def named_overrides(
    overrides: Sequence[str] = (),
    *,
    lora: bool = False,
    rewards: str | None = None,
    report_to: str | None = None,
    **short: Any,
) -> list[str]:
    """Overrides from the short names of `aha train`; `overrides` stand before them.

    Errors: UserError for a name that there is not.
    """
    known = {**_TEXTS, **_NUMBERS}
    for name in short:
        if name not in known:
            allowed = ", ".join(sorted({*known, "lora", "report_to"}))
            raise UserError(
                f"{name!r} is unknown; allowed are {allowed}, and in overrides any key of the "
                f"recipe.{did_you_mean(name, known)}"
            )
    found = [*(["lora={}"] if lora else []), *overrides]
    # Quoted for YAML: a folder named 2024 must stay a text.
    texts = ((key, short.get(name)) for name, key in _TEXTS.items())
    found += [f"{key}={json.dumps(text)}" for key, text in texts if text is not None]
    numbers = ((key, short.get(name)) for name, key in _NUMBERS.items())
    found += [f"{key}={number}" for key, number in numbers if number is not None]
    if rewards is not None:
        names = [name.strip() for name in rewards.split(",")]
        found.append(f"rewards={json.dumps([{'name': name} for name in names])}")
    if report_to is not None:
        found.append(f"logging.report_to=[{'' if report_to == 'none' else report_to}]")
    return found


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `a.b=value` overrides. Errors: as `load_recipe`."""
    return _parsed(dump_recipe(recipe), tuple(overrides), recipe.name)


# The start of a run asks for the same recipe several times; a recipe is frozen and can be shared.
@functools.lru_cache(maxsize=64)
def _parsed(text: str, overrides: tuple[str, ...], source: str) -> Recipe:
    try:
        data = yaml.safe_load(text)
    except _YAML_FAULTS as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{source}: a recipe is a mapping of sections, not {data!r}.")
    named = [value.strip() for key, _, value in (each.partition("=") for each in overrides)
             if key.strip() == "task.name"]  # fmt: skip
    task = data.get("task")
    if isinstance(task, dict) and named and named[-1] != (own := str(task.get("name"))):
        # The recipe's keys that only its own task has. Other tasks would refuse them.
        for key in TASKS[own].own_keys if own in TASKS else ():
            task.pop(key, None)
    for override in overrides:
        _override(data, override)
    return parse_recipe(data, source)


def yaml_value(text: str, where: str) -> Any:
    """The value of an option written in YAML. Errors: UserError naming `where` and the text."""
    try:
        read = list(yaml.scan(text))[-2].end_mark.index  # the last token is the stream's end
        # An option has no comments: YAML drops "#" and what follows, but the user meant it.
        return text.strip() if text[read:].strip() else yaml.safe_load(text)
    except _YAML_FAULTS:
        raise UserError(f"{where}: {text!r} is not a YAML value.") from None


def parse_recipe(data: dict[str, Any], source: str) -> Recipe:
    """A checked recipe from plain data; `source` names it in messages."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error)}") from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def require_trainable(recipe: Recipe) -> None:
    """Errors: UserError for quantised weights without adapters, which only evaluation can use, and
    for an optimizer whose package is missing.
    """
    kind = recipe.model.quantization
    if kind != "none" and recipe.lora is None:
        raise UserError(
            f"model.quantization is {kind!r}; quantised weights are not trained, so it needs "
            "adapters: --set lora={} (or --lora)."
        )
    if recipe.optimizer.state == "8bit" and find_spec("bitsandbytes") is None:
        raise UserError(
            "optimizer.state is '8bit', which needs bitsandbytes: "
            "pip install 'aha-zero[quantized]'."
        )


# A resumed run may change these keys: they do not change the meaning of the steps so far.
_FREE_KEYS = (
    "description", "logging", "train.save_steps", "train.save_total_limit", "train.max_hours",
    "train.save_in_background", "train.max_skipped_steps", "train.tokens_per_microbatch",
    "generation.max_rows", "evaluation.every", "trl",
)  # fmt: skip


@dataclass(frozen=True)
class RecipeChange:
    """A key whose value differs between two recipes; `free` if it changes no result."""

    key: str
    before: Any
    after: Any

    @property
    def free(self) -> bool:
        return any(self.key == key or self.key.startswith(f"{key}.") for key in _FREE_KEYS)

    def __str__(self) -> str:
        return f"{self.key}: {self.before!r} -> {self.after!r}"


def changes(before: Recipe, after: Recipe) -> list[RecipeChange]:
    """Every key that differs, by its dotted name."""
    one, two = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    keys = [*one, *(key for key in two if key not in one)]
    return [
        RecipeChange(key, one.get(key), two.get(key))
        for key in keys
        if one.get(key) != two.get(key)
    ]


def fingerprint(recipe: Recipe) -> str:
    """A short hash of the settings that decide the curves of training.

    Left out are the seed, the evaluation, names, and the keys that change no result. A key at its
    default is left out too, so that a new key leaves old fingerprints as they are.
    """
    settings = _flat(recipe.model_dump(mode="json", exclude_defaults=True))
    for key in list(settings):
        if RecipeChange(key, None, None).free or key.startswith(
            ("name", "train.seed", "evaluation.")
        ):
            del settings[key]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _override(data: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in place; the value is read as YAML, so lists and numbers work."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"--set {override!r}: write it as key=value, such as train.max_steps=100.")
    value = yaml_value(text, f"--set {override!r}")
    if isinstance(value, str) and value == text.strip():
        # Without quotes: YAML 1.1 reads `1e-4` as text, but people mean a number.
        with contextlib.suppress(ValueError):
            value = float(value)
    node = data
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if child is None:  # a section that a recipe leaves out, such as `lora: null`
            child = node[part] = {}
        if not isinstance(child, dict):
            raise UserError(f"--set {override!r}: {part!r} has no keys below it.")
        node = child
    node[parts[-1]] = value


def _sentence(error: ValidationError) -> str:
    """The first fault of a validation as one sentence; a misspelt key before a missing one."""
    faults = error.errors()
    fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    key = ".".join(str(part) for part in fault["loc"]) or "recipe"
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        paths = list(_key_paths(Recipe))
        section = tuple("0" if isinstance(part, int) else part for part in fault["loc"][:-1])
        siblings = [path[-1] for path in paths if path[:-1] == section]
        # If several keys have one name: the key beside it, else the first that `--set` takes.
        known = {path[-1]: ".".join(path) for path in reversed(paths) if "0" not in path}
        known |= {name: ".".join([*key.split(".")[:-1], name]) for name in siblings}
        near = did_you_mean(fault["loc"][-1], known, written=known)
        return f"{quoted(key)} is not a known key; allowed there are {', '.join(siblings)}.{near}"
    if kind == "missing":
        return f"{key} is missing; it is required."
    if kind == "value_error":
        prefix = f"{key}: " if fault["loc"] else ""
        message = f"{prefix}{context['error']}"
        return message if message.endswith("?") else f"{message.rstrip('.')}."
    message = _PLAIN.get(kind) or fault["msg"].removeprefix("Input ").removeprefix("Value ")
    near = did_you_mean(value, re.findall("'([^']+)'", context.get("expected", "")))
    return f"{key} is {quoted(value)}; it {message}.{near}"


def _key_paths(section: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, in a recipe's order; "0" stands for an item of a list."""
    for name, field in section.model_fields.items():
        yield (*path, name)
        inner = _inner(field.annotation)
        if hasattr(inner, "model_fields"):
            item = ("0",) if get_origin(field.annotation) is tuple else ()
            yield from _key_paths(inner, (*path, name, *item))


def _inner(annotation: Any) -> Any:
    """The X of `X | None` or `tuple[X, ...]`; another type unchanged."""
    arguments = getattr(annotation, "__args__", ())
    return arguments[0] if arguments else annotation
