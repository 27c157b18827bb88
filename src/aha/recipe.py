"""What a run is: one YAML file, checked whole before anything loads.

Keys use TRL's names where TRL has one. An unknown key, a wrong type or an impossible
combination is one sentence that names the key, the value and what is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aha.types import UserError
from aha.visible import quoted

DEFAULT_RECIPE = "countdown-tiny"


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are not converted between types."""

    # An infinite option of a reward of the user's own stays so when the recipe is written out.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class ModelSection(Section):
    """The policy: `aha-tiny`, a folder, or a hub name."""

    name: str = "aha-tiny"
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: float32; bfloat16 rounds away most updates at rates like 1e-6",
    )
    autocast: Literal["auto", "none", "bfloat16"] = Field(
        "auto", description="type of large products in training; auto: bfloat16 on a GPU"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    trust_remote_code: bool = False


class TaskSection(Section):
    """The problems: generated, or read from `source`."""

    name: Literal["countdown", "gsm8k", "math", "numina-math-tir", "bespoke-stratos", "custom"] = (
        "countdown"
    )
    source: str | None = Field(
        None, description="file or hub data set; none: generated, or the task's own set"
    )
    test_source: str | None = Field(
        None, description="set of the held-out problems; none: split off by content"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="our column: the set's column"
    )
    num_train: int | None = Field(None, ge=1, description="none: all, or 10,000 generated")
    data_seed: int = Field(0, description="seed of the generator; never moves test problems")
    sizes: tuple[int, ...] = Field((3, 4), min_length=1, description="how many numbers")
    number_min: int = Field(1, ge=0)
    number_max: int = Field(99, ge=1)
    target_min: int = Field(1, ge=0)
    target_max: int = Field(99, ge=0)
    max_value: int = Field(9_999, ge=1, description="bound of every intermediate result")

    @model_validator(mode="after")
    def _check_ranges(self) -> TaskSection:
        if any(size < 2 or size > 8 for size in self.sizes):
            raise ValueError(f"sizes is {list(self.sizes)}; each must be 2 to 8")
        for low, high in (("number_min", "number_max"), ("target_min", "target_max")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} is {getattr(self, low)}; it must be at most {high}, "
                    f"{getattr(self, high)}"
                )
        return self


class ExampleSection(Section):
    """A worked example that stands before the problem."""

    problem: str
    completion: str


class PromptSection(Section):
    """How problems are asked."""

    style: Literal["r1", "think-answer", "reasoning-answer", "plain", "compact"] = "r1"
    format: Literal["text", "chat"] = Field("text", description="plain text, or chat template")
    prefill: str = Field("<think>", description="what the completion is made to begin with")
    system: str | None = Field(None, description="instead of the style's own instruction")
    examples: tuple[ExampleSection, ...] = ()


class RewardSection(Section):
    """One reward with its weight in the sum and its own options."""

    name: str
    weight: float = Field(1.0, allow_inf_nan=False)
    options: dict[str, Any] = Field(default_factory=dict)
    on_error: Literal["stop", "none"] = Field(
        "stop", description="when the reward fails: stop the run, or no score for its rows"
    )
    timeout_s: float = Field(
        600.0, gt=0, allow_inf_nan=False, description="seconds for a step's completions"
    )


class GenerationSection(Section):
    """Rollouts."""

    num_generations: int = Field(8, ge=2, description="completions per prompt")
    max_completion_length: int = Field(512, ge=1, description="tokens")
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: off")
    min_p: float = Field(0.0, ge=0, le=1)
    stop: tuple[str, ...] = Field((), description="texts after which a completion ends")
    max_rows: int = Field(512, ge=1, description="completions in the KV cache at a time")

    @model_validator(mode="after")
    def _check_stop(self) -> GenerationSection:
        if "" in self.stop:
            raise ValueError("stop holds an empty text; each must have a character at least")
        return self


class GrpoSection(Section):
    """The objective."""

    prompts_per_step: int = Field(16, ge=1)
    num_iterations: int = Field(1, ge=1, description="updates per batch of rollouts")
    beta: float = Field(0.0, ge=0, allow_inf_nan=False, description="weight of the KL term")
    use_bias_correction_kl: bool = Field(True, description="KL times the importance ratio")
    epsilon: float = Field(0.2, ge=0, lt=1)
    epsilon_high: float | None = Field(None, ge=0, description="none: as epsilon")
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    mask_truncated_completions: bool = False
    dynamic_sampling: bool = Field(
        False, description="draw prompts until prompts_per_step groups have signal (DAPO)"
    )
    max_sampling_rounds: int = Field(
        4, ge=1, le=15, description="with dynamic_sampling: rounds of prompts_per_step at most"
    )


class OptimizerSection(Section):
    """AdamW and its schedule."""

    learning_rate: float = Field(1e-6, gt=0, allow_inf_nan=False)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    min_lr_ratio: float = Field(0.0, ge=0, le=1, description="last rate over learning_rate")
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, gt=0)


class TrainSection(Section):
    """The loop."""

    max_steps: int = Field(200, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)
    save_steps: int = Field(50, ge=1)
    save_total_limit: int = Field(2, ge=1)
    save_in_background: bool = Field(
        False, description="train on while a checkpoint is written, for memory of its size"
    )
    max_hours: float | None = Field(
        None, gt=0, description="save and stop before this many hours have passed"
    )
    max_skipped_steps: int = Field(
        5, ge=1, description="stop after this many steps in a row without a finite gradient"
    )
    gradient_checkpointing: bool = False
    tokens_per_microbatch: int | None = Field(
        None, ge=1, description="padded tokens at a time; none: from the free memory"
    )


class EvaluationSection(Section):
    """Held-out accuracy before and after training."""

    n: int = Field(500, ge=0, description="0: no evaluation")
    temperature: float = Field(1.0, ge=0, description="0: greedy")


class LoggingSection(Section):
    """What is written while the run goes on."""

    logging_steps: int = Field(1, ge=1, description="steps between the console's blocks")
    console: Literal["auto", "live", "text"] = Field(
        "auto", description="auto: a live view in a terminal, text elsewhere"
    )
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    project: str = Field("aha", min_length=1, description="W&B's or Trackio's project")
    samples_steps: int = Field(10, ge=1, description="steps between samples files")
    samples_groups: int = Field(2, ge=1, description="groups in a samples file")
    samples_successful_only: bool = Field(False, description="only groups with a right completion")
    samples_limit: int | None = Field(None, ge=1, description="groups kept in all; none: no limit")
    samples_print: bool = Field(False, description="samples on the console too")
    alerts_window: int = Field(
        40, ge=0, description="steps in which a trend is looked for; 0: no trend alerts"
    )


class Recipe(Section):
    """A run, whole."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    engine: Literal["native"] = "native"
    model: ModelSection = ModelSection()
    task: TaskSection = TaskSection()
    prompt: PromptSection = PromptSection()
    rewards: tuple[RewardSection, ...] = Field(
        (RewardSection(name="accuracy"), RewardSection(name="format", weight=0.1)), min_length=1
    )
    generation: GenerationSection = GenerationSection()
    grpo: GrpoSection = GrpoSection()
    optimizer: OptimizerSection = OptimizerSection()
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    logging: LoggingSection = LoggingSection()

    @model_validator(mode="after")
    def _check_rewards(self) -> Recipe:
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

    Errors: UserError naming the key, the value and what is allowed.
    """
    data = _read(name_or_path)
    for override in overrides:
        _override(data, override)
    return parse_recipe(data, name_or_path)


def parse_recipe(data: dict[str, Any], source: str) -> Recipe:
    """A checked recipe from plain data; `source` names it in messages."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error)}") from None


# What a resumed run may change without meaning something else by its first steps.
_FREE_KEYS = (
    "description", "logging", "train.save_steps", "train.save_total_limit", "train.max_hours",
    "train.save_in_background", "train.max_skipped_steps", "train.tokens_per_microbatch",
    "generation.max_rows",
)  # fmt: skip


@dataclass(frozen=True)
class RecipeChange:
    """A key whose value differs between two recipes; `free` where it changes no result."""

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


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _read(name_or_path: str) -> dict[str, Any]:
    shipped = shipped_recipes()
    path = Path(name_or_path).expanduser()
    if name_or_path in shipped:
        text = shipped[name_or_path]
    elif path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"recipe {name_or_path!r} cannot be read: {error}.") from None
    else:
        raise UserError(
            f"recipe {name_or_path!r} is neither a file nor one of {', '.join(shipped)}."
        )
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name_or_path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{name_or_path}: a recipe is a mapping of sections, not {data!r}.")
    return data


def _override(data: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in place; the value is read as YAML, so lists and numbers work."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"--set {override!r}: write it as key=value, such as train.max_steps=100.")
    try:
        value = _numeric(yaml.safe_load(text))
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: {text!r} is not a YAML value.") from None
    node = data
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {override!r}: {part!r} has no keys below it.")
        node = child
    node[parts[-1]] = value


def _numeric(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text; people mean a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _sentence(error: ValidationError) -> str:
    """The first fault of a validation as one sentence."""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"]) or "recipe"
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = ", ".join(_siblings(fault["loc"]))
        return f"{quoted(key)} is not a known key; allowed there are {allowed}."
    if kind == "missing":
        return f"{key} is missing; it is required."
    if kind == "value_error":
        prefix = f"{key}: " if fault["loc"] else ""
        return f"{prefix}{context['error']}."
    message = fault["msg"].removeprefix("Input ").removeprefix("Value ")
    return f"{key} is {quoted(value)}; it {message}."


def _siblings(location: Sequence[int | str]) -> list[str]:
    model: Any = Recipe
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        arguments = getattr(annotation, "__args__", ())
        model = arguments[0] if arguments else annotation
    return list(model.model_fields)
