"""From a run directory to report.html. Model text reaches the page escaped, always."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from aha.recipe import dump_recipe
from aha.report.curves import Curve, to_png, to_svg
from aha.runs import RunDirectory
from aha.types import UserError

_PANELS = (
    ("Reward, mean of a step", "reward", False),
    ("Accuracy of rollouts (strict)", "accuracy", True),
    ("Completion length, tokens", "completions/mean_length", False),
    ("Reflection phrases a completion", "reflection_rate", False),
    ("Entropy of the policy, nats a token", "entropy", False),
    ("Completions cut off at the limit", "completions/clipped_ratio", True),
)
_README_PANELS = 4
_REFLECTION = re.compile(r"(?<![A-Za-z])wait\b,?", re.IGNORECASE)


def build_report(run: RunDirectory) -> Path:
    """Write report.html into the run and return its path.

    Errors: UserError when the run has no steps yet.
    """
    template = Environment(
        loader=PackageLoader("aha.report"), autoescape=select_autoescape(default=True)
    ).get_template("report.html.j2")
    evaluation = run.evaluation()
    recipe = run.recipe()
    html = template.render(
        recipe=recipe,
        recipe_yaml=dump_recipe(recipe),
        environment=(run.path / "environment.json").read_text(encoding="utf-8"),
        summary=_summary(evaluation),
        evaluation=evaluation,
        panels=[(curve.title, Markup(to_svg(curve))) for curve in curves(run)],  # noqa: S704
        case=case_study(run),
        steps=len(run.metrics()),
    )
    run.report_file.write_text(html, encoding="utf-8")
    return run.report_file


def write_figure(run: RunDirectory, path: Path) -> None:
    """The main curves as one PNG."""
    to_png(curves(run)[:_README_PANELS], str(path))


def curves(run: RunDirectory) -> list[Curve]:
    """The report's panels. Errors: UserError when the run has no steps yet."""
    metrics = run.metrics()
    if not metrics:
        raise UserError(f"{str(run.path)!r} has no recorded step yet; there is nothing to report.")
    steps = [record["step"] for record in metrics]
    return [
        Curve(title, steps, [record[key] for record in metrics], percent)
        for title, key, percent in _PANELS
    ]


def case_study(run: RunDirectory) -> dict[str, Any] | None:
    """A held-out problem that was missed before and solved after, by going on after a mistake.

    The one with the median number of reflections among such problems, so that it is typical.
    """
    before = {record["key"]: record for record in run.read_lines("eval-before.jsonl")}
    gained = [
        record
        for record in run.read_lines("eval-after.jsonl")
        if record["correct"] and record["reflections"] and not before[record["key"]]["correct"]
    ]
    if not gained:
        return None
    gained.sort(key=lambda record: (record["reflections"], record["key"]))
    after = gained[len(gained) // 2]
    return {
        "prompt": after["prompt"],
        "before": marked(before[after["key"]]["completion"]),
        "after": marked(after["completion"]),
        "gained": len(gained),
    }


def marked(text: str) -> Markup:
    """Model text, escaped, with every "Wait" on a line of its own and marked."""
    pieces: list[Markup] = []
    position = 0
    for match in _REFLECTION.finditer(text):
        pieces.append(escape(text[position : match.start()]))
        pieces.append(Markup("\n<mark>{}</mark>").format(match.group()))
        position = match.end()
    pieces.append(escape(text[position:]))
    return Markup("").join(pieces)


def _summary(evaluation: dict[str, Any]) -> Sequence[str]:
    if "before" not in evaluation or "after" not in evaluation:
        return ["This run has no evaluation before and after training."]
    before, after = evaluation["before"], evaluation["after"]
    return [
        f"On {after['n']} held-out problems accuracy (strict) went from {_share(before)} to "
        f"{_share(after)}.",
        f"Completions grew from {before['mean_length']:.0f} to {after['mean_length']:.0f} tokens "
        f"and reflection phrases from {before['reflection_rate']:.2f} to "
        f"{after['reflection_rate']:.2f} a completion.",
    ]


def _share(summary: dict[str, Any]) -> str:
    low, high = summary["ci95"]
    return f"{summary['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%})"
