"""`aha doctor`: the checks, the prediction and the trial, as text or as one JSON object."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from aha.doctor import hardware, software
from aha.doctor.advice import (
    Advice,
    advise,
    checkpoints_finding,
    memory_finding,
    model_finding,
    prediction,
    settings_findings,
)
from aha.doctor.hardware import Finding, Machine
from aha.doctor.preview import Subject, place_of, prompts_of, shape_of
from aha.doctor.trial import Measured, measure
from aha.recipe import load_recipe
from aha.rewards.score import require_known
from aha.train.memory import PARTS, Device, Prediction, RunSizes
from aha.types import UserError
from aha.visible import visible

_WIDTH = 100
_STATE, _WHAT = 10, 20  # widths of the first columns


@dataclass(frozen=True)
class RecipeReport:
    """The part of the report on a recipe; `command` trains it with the settings asked about."""

    subject: Subject
    findings: tuple[Finding, ...]
    prediction: Prediction
    advice: Advice
    measured: Measured | None
    command: str


@dataclass(frozen=True)
class Report:
    """Everything that was found; `fit` unless something makes training impossible."""

    machine: tuple[Finding, ...]
    recipe: RecipeReport | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*self.machine, *(self.recipe.findings if self.recipe else ()))

    @property
    def fit(self) -> bool:
        return not any(finding.stops for finding in self.findings)

    def as_text(self) -> str:
        """For a terminal, at most 100 columns wide."""
        lines = _finding_lines("this machine", self.machine) if self.machine else []
        about = self.recipe
        if about is not None:
            name = about.subject.recipe.name
            lines += ["", *_finding_lines(f"recipe {name}", about.findings), ""]
            lines += textwrap.wrap(_premises(about), _WIDTH)
            lines += ["", *_phase_table(about.prediction), ""]
            lines += [*_option_table(about.advice), "", *_recommendation(about)]
            if about.measured is not None:
                lines += ["", *_measured_lines(about.measured)]
        stopping = dict.fromkeys(finding.what for finding in self.findings if finding.stops)
        problems = dict.fromkeys(f.what for f in self.findings if f.state == "problem")
        verdict = "Nothing stands in the way."
        if stopping:
            verdict = f"Training cannot work yet: {', '.join(stopping)}."
        elif problems:
            verdict = f"Training can work; look at {', '.join(problems)}."
        return visible("\n".join([*lines, "", verdict]).strip("\n"))

    def as_json(self) -> str:
        """One object: `fit`, `machine`, and `recipe` if one was asked about."""
        value: dict[str, Any] = {
            "fit": self.fit,
            "machine": [asdict(finding) for finding in self.machine],
        }
        about = self.recipe
        if about is not None:
            predicted, recommended = about.prediction, about.advice.recommended
            value["recipe"] = {
                "name": about.subject.recipe.name,
                "findings": [asdict(finding) for finding in about.findings],
                "place": asdict(about.subject.place),
                "prompts": asdict(about.subject.prompts),
                "predicted": {
                    **asdict(predicted),
                    "peak": predicted.peak.total,
                    "peak_phase": predicted.peak.name,
                },
                "options": [
                    {"set": x.settings, "peak": x.peak, "phase": x.phase, "fits": x.fit}
                    for x in about.advice.options
                ],
                "recommended": None if recommended is None else recommended.settings,
                "largest_that_fits": about.advice.largest,
            }
            if about.measured is not None:
                measured = {**asdict(about.measured), "run_s": about.measured.run_s}
                value["recipe"]["measured"] = measured
        return json.dumps(value, indent=2, ensure_ascii=False)


def diagnose(
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    memory_gib: float | None = None,
    device: Device | None = None,
    config: Path | None = None,
    offline: bool = False,
    measured: bool = False,
) -> Report:
    """The findings on this machine, and the memory of a recipe if one is named.

    With `memory_gib` or `device` the question is about another machine: this one is left out.
    `config`: a config.json of the recipe's model. `measured`: also take two real steps.
    Errors: UserError for a wrong question; RunFailure when a trial fails.
    """
    elsewhere = memory_gib is not None or device is not None
    if recipe is None and (overrides or elsewhere or config or measured):
        raise UserError(
            "--set, --memory, --device, --config and --measure go with a recipe: "
            "aha doctor countdown-tiny --measure."
        )
    if measured and (elsewhere or config):
        raise UserError(
            "--measure runs the recipe's own model on this machine; leave --memory, --device and "
            "--config out."
        )
    machine = hardware.this_machine()
    hub = software.look_at_hub(offline)
    about = None
    if recipe is not None:
        asked = None if memory_gib is None else int(memory_gib * 2**30)
        about = _recipe_report(recipe, overrides, machine, hub, device, asked, config, measured)
    if elsewhere:
        return Report((), about)
    findings = hardware.hardware_findings(machine) + software.package_findings()
    return Report((*findings, *software.hub_findings(hub)), about)


def _recipe_report(
    name: str,
    overrides: Sequence[str],
    machine: Machine,
    hub: software.Hub,
    device: Device | None,
    memory: int | None,
    config: Path | None,
    measured: bool,
) -> RecipeReport:
    recipe = load_recipe(name, overrides)
    require_known(recipe)
    try:
        # From this machine if possible: the hub is asked only where it must be.
        shape = shape_of(recipe.model, config, online=False)
    except UserError:
        if not hub.reachable or config is not None:
            raise
        shape = shape_of(recipe.model, config, online=True)
    place = place_of(machine, recipe, device, memory)
    subject = Subject(recipe, shape, place, prompts_of(recipe))
    advice = advise(subject)
    findings = [memory_finding(subject, advice), *settings_findings(subject, software.installed)]
    if device is None and memory is None:
        findings.insert(0, model_finding(subject, hub, _cached))
        saved = 3 * RunSizes(recipe, shape, place, subject.prompts.tokens).trained
        findings.append(checkpoints_finding(subject, saved, machine.disks))
    settings = [word for override in overrides for word in ("--set", override)]
    return RecipeReport(
        subject=subject,
        findings=tuple(findings),
        prediction=prediction(subject, {}),
        advice=advice,
        measured=measure(subject) if measured else None,
        command=shlex.join(["aha", "train", name, *settings]),
    )


def _cached(name: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(name, file), str)


def _finding_lines(title: str, findings: Sequence[Finding]) -> list[str]:
    """A title; then state, subject and what was found; under it what to do."""
    lines, indent = [title], " " * (_STATE + _WHAT)
    for finding in findings:
        head = f"  {finding.state:<{_STATE - 2}}{finding.what:<{_WHAT}}"
        lines += textwrap.wrap(finding.found, _WIDTH, initial_indent=head, subsequent_indent=indent)
        lines += textwrap.wrap(
            finding.advice,
            _WIDTH,
            initial_indent=indent + "-> ",
            subsequent_indent=indent + "   ",
        )
    return lines


def _premises(about: RecipeReport) -> str:
    subject, predicted = about.subject, about.prediction
    where = "a CPU" if subject.place.device == "cpu" else "a GPU"
    counted = "an assumption" if subject.prompts.assumed else "the longest of some"
    trained = ""
    if predicted.trained < predicted.parameters:
        trained = f", {predicted.trained / 1e6:,.2f} M of them trained"
    return (
        f"Predicted memory in GiB on {where} with {_gib(subject.place.limit)}: "
        f"{predicted.parameters / 1e6:,.2f} M parameters{trained} (sizes from "
        f"{subject.shape.known_from}), prompts of {subject.prompts.tokens} tokens ({counted}), "
        f"every completion at its limit of {subject.recipe.generation.max_completion_length}, "
        f"{predicted.tokens_per_microbatch:,} tokens a micro-batch, from the second step on."
    )


def _phase_table(predicted: Prediction) -> list[str]:
    phases, peak = predicted.phases, predicted.peak.total
    lines = [f"  {'':<14}" + "".join(f"{phase.name:>16}" for phase in phases)]
    for part in PARTS:
        counts = [phase.parts.get(part, 0) for phase in phases]
        if any(counts):
            cells = (f"{count / 2**30:.2f}" if count else "-" for count in counts)
            lines.append(f"  {part:<14}" + "".join(f"{cell:>16}" for cell in cells))
    totals = (f"{'peak ' * (p.total == peak)}{p.total / 2**30:.2f}" for p in phases)
    return [*lines, f"  {'all':<14}" + "".join(f"{total:>16}" for total in totals)]


def _option_table(advice: Advice) -> list[str]:
    lines = [f"  {'settings':<66}{'peak, GiB':>10}  {'in':<10}{'fits':>6}"]
    for option in advice.options:
        *above, last = textwrap.wrap(" ".join(option.settings) or "as it is", 66)
        lines += [f"  {line}" for line in above]
        phase = option.phase.split()[0]
        lines.append(f"  {last:<66}{option.peak / 2**30:>10.2f}  {phase:<10}{option.fit:>6}")
    return lines


def _recommendation(about: RecipeReport) -> list[str]:
    advice = about.advice
    if advice.fits:
        tight = ", by less than a prediction may be wrong" * (advice.options[0].fit == "tight")
        return [f"It fits as it is{tight}."]
    if advice.recommended is None:
        size = (advice.largest or 0) / 1e6
        return [f"None of these fits. About {size:,.0f} M parameters of this shape would."]
    first, *others = (f"--set {shlex.quote(setting)}" for setting in advice.recommended.settings)
    # A shell takes it as it stands, over several lines too.
    return " \\\n  ".join([f"Recommended: {about.command} {first}", *others]).split("\n")


def _measured_lines(measured: Measured) -> list[str]:
    """The trial beside the prediction."""
    trial = measured.trial
    rows = [
        ("predicted, completions at their limit", measured.predicted),
        (f"predicted, completions of {trial.mean_length:.0f} tokens", measured.predicted_here),
        ("measured, second of two steps", trial.peak),
    ]
    if not trial.on_gpu:
        rows.append(("of which before anything was loaded", trial.before))
    seconds = measured.run_s
    duration = f"{seconds / 3600:.1f} hours"
    if seconds < 7200:
        duration = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    text = (
        f"{trial.rows} completions, {trial.mean_length:.0f} tokens on average, "
        f"{trial.max_length:.0f} at most. A step took {trial.step_s:.1f} s (rollout "
        f"{trial.rollout_s:.1f} s, update {trial.train_s:.1f} s); {measured.steps} of them and "
        f"{measured.evaluations} evaluations of {measured.problems} problems would take "
        f"{duration} if completions stayed that long."
    )
    return [
        "peak memory" + (" of the GPU's tensors" if trial.on_gpu else " of the process"),
        *(f"  {label:<44}{_gib(count):>10}" for label, count in rows),
        *textwrap.wrap(text, _WIDTH),
    ]


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
