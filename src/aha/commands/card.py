"""The card of an exported model: results, how they were made, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from aha.commands.subject import Subject
from aha.recipe import Recipe, dump_recipe
from aha.runs import RunDirectory

_ROWS = (
    ("accuracy, strict: right and in the asked layout", "accuracy", True),
    ("accuracy, lenient: last answer right", "accuracy_lenient", True),
    ("format followed", "format_rate", True),
    ("mean length, tokens", "mean_length", False),
    ("cut off at the limit", "truncated_rate", True),
    ("reflection phrases a completion", "reflection_rate", False),
)
_BEFORE = "before training"
_LIMITS = (
    "It was rewarded on one task, with rewards that rules can check. Nothing was done about "
    "anything else: facts, safety, other tasks, other prompts. What it writes as its reasoning "
    "need not be how it arrived at its answer. The figures are of the prompt and sampling settings "
    "of the recipe; with others they differ."
)


def model_card(subject: Subject, recipe: Recipe, model: PreTrainedModel) -> str:
    """Markdown with the front matter that the hub reads."""
    environment = _environment(subject)
    base = environment.get("base_model", recipe.model.name)
    parts = [
        _front_matter(),
        f"# {subject.name}",
        f"{model.num_parameters() / 1e6:,.2f} M parameters, {str(model.dtype).split('.')[-1]}, "
        f"trained with GRPO by [aha](https://pypi.org/project/aha-zero/) on the task "
        f"`{recipe.task.name}`, beginning from `{base}`.",
        _results(subject),
        "## Limits\n" + _LIMITS,
        _versions(environment),
        f"## Recipe\n```yaml\n{dump_recipe(recipe)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter() -> str:
    return "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [grpo, aha]\n---"


@dataclass(frozen=True)
class _Side:
    """A column of the results: what it is of, and its figures as eval.json has them."""

    heading: str
    figures: Mapping[str, Any]


def _results(subject: Subject) -> str:
    if subject.run is None:
        return "## Results\nIt has not been evaluated."
    step, end = _step(subject), subject.run.recipe().train.max_steps
    sides = _sides(subject.run, step, end)
    parts = [_table(sides)] if sides else []
    if all(side.heading == _BEFORE for side in sides):
        which = "a step that is not known" if step is None else f"step {step} of {end}"
        parts.append(f"These weights are of {which}, which was not evaluated.")
    return "## Results\n" + "\n\n".join(parts)


def _step(subject: Subject) -> int | None:
    """The step that the checkpoint's folder names; None where it was renamed."""
    number = Path(subject.source).resolve().name.removeprefix("step-")
    return int(number) if number.isdecimal() else None


def _sides(run: RunDirectory, step: int | None, end: int) -> list[_Side]:
    """Before training; and of these weights what the run recorded, at its end or on the way."""
    evaluation = run.evaluation()
    sides = [_Side(_BEFORE, evaluation["before"])] if "before" in evaluation else []
    if step == end and "after" in evaluation:
        return [*sides, _Side("after training", evaluation["after"])]
    for record in run.metrics():
        if record["step"] == step and "eval/accuracy" in record:
            sides.append(_Side(f"at step {step} of {end}", _of_record(run, record)))
    return sides


def _of_record(run: RunDirectory, record: Mapping[str, Any]) -> dict[str, Any]:
    """A step's `eval/...` figures by the names of eval.json."""
    found = {k.removeprefix("eval/"): v for k, v in record.items() if k.startswith("eval/")}
    return found | {
        "ci95": (found["ci95_low"], found["ci95_high"]),
        "temperature": run.recipe().evaluation.temperature,
    }


def _table(sides: Sequence[_Side]) -> str:
    last = sides[-1].figures
    lines = [
        f"On {last['n']:.0f} held-out problems, one completion each at temperature "
        f"{last['temperature']:g}; in brackets 95 % intervals (Wilson).",
        "",
        f"| | {' | '.join(side.heading for side in sides)} |",
        f"|---{'|---' * len(sides)}|",
    ]
    for label, key, percent in _ROWS:
        cells = [_cell(side.figures, key, percent) for side in sides]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(summary: Mapping[str, Any], key: str, percent: bool) -> str:
    text = f"{summary[key]:.1%}" if percent else f"{summary[key]:.2f}"
    if key != "accuracy":
        return text
    low, high = summary["ci95"]
    return f"{text} ({low:.1%} to {high:.1%})"


def _environment(subject: Subject) -> dict[str, Any]:
    if subject.run is None:
        return {}
    text = (subject.run.path / "environment.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found | {"base_model": subject.run.recipe().model.name}


def _versions(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages", {})
    if not packages:
        return ""
    listed = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    return f"## Made with\n{listed}; seed {environment['seed']}."
