"""The card of an exported model: results, how they were made, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from aha.commands.subject import Subject
from aha.recipe import Recipe, dump_recipe

_ROWS = (
    ("accuracy, strict: right and in the asked layout", "accuracy", True),
    ("accuracy, lenient: last answer right", "accuracy_lenient", True),
    ("format followed", "format_rate", True),
    ("mean length, tokens", "mean_length", False),
    ("cut off at the limit", "truncated_rate", True),
    ("reflection phrases a completion", "reflection_rate", False),
)
_LIMITS = (
    "It was rewarded on one task, with rewards that rules can check. Nothing was done about "
    "anything else: facts, safety, other tasks, other prompts. What it writes as its reasoning "
    "need not be how it arrived at its answer. The figures are of the prompt and sampling settings "
    "of the recipe; with others they differ."
)


def model_card(subject: Subject, recipe: Recipe, model: PreTrainedModel) -> str:
    """Markdown with the front matter that the hub reads."""
    evaluation = subject.run.evaluation() if subject.run is not None else {}
    environment = _environment(subject)
    base = environment.get("base_model", recipe.model.name)
    parts = [
        _front_matter(),
        f"# {subject.name}",
        f"{model.num_parameters() / 1e6:,.2f} M parameters, {str(model.dtype).split('.')[-1]}, "
        f"trained with GRPO by [aha](https://pypi.org/project/aha-zero/) on the task "
        f"`{recipe.task.name}`, beginning from `{base}`.",
        _results(evaluation),
        "## Limits\n" + _LIMITS,
        _versions(environment),
        f"## Recipe\n```yaml\n{dump_recipe(recipe)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter() -> str:
    return "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [grpo, aha]\n---"


def _results(evaluation: Mapping[str, Any]) -> str:
    sides = [when for when in ("before", "after") if when in evaluation]
    if not sides:
        return "## Results\nIt has not been evaluated."
    lines = [
        "## Results",
        f"On {evaluation[sides[-1]]['n']} held-out problems, one completion each at temperature "
        f"{evaluation[sides[-1]]['temperature']:g}; in brackets 95 % intervals (Wilson).",
        "",
        f"| | {' | '.join(f'{when} training' for when in sides)} |",
        f"|---{'|---' * len(sides)}|",
    ]
    for label, key, percent in _ROWS:
        cells = [_cell(evaluation[when], key, percent) for when in sides]
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
