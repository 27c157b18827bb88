"""`aha doctor`: the checks, the prediction and the trial, as text or as one JSON object."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from aha.doctor import hub as hubs
from aha.doctor import machine, packages
from aha.doctor.advice import Advice, Option, advise, prediction
from aha.doctor.asking import Subject, place_of, prompts_of
from aha.doctor.checks import judge_checkpoints, judge_memory, judge_model, judge_settings
from aha.doctor.facts import Facts, gather
from aha.doctor.finding import Finding
from aha.doctor.measure import Measured, measure
from aha.doctor.memory import Prediction
from aha.doctor.shapes import Shape, shape_of
from aha.doctor.sizes import Device, sizes_of
from aha.doctor.text import finding_lines, measured_lines, prediction_lines
from aha.recipe import Recipe, load_recipe
from aha.rewards.score import require_known
from aha.types import UserError
from aha.visible import visible


@dataclass(frozen=True)
class Request:
    """What `aha doctor` was asked. With `memory_gib` or `device` it is about another machine:
    this one is not judged then."""

    recipe: str | None = None
    overrides: Sequence[str] = ()
    memory_gib: float | None = None
    device: Device | None = None
    config: Path | None = None
    offline: bool = False
    measure: bool = False

    @property
    def elsewhere(self) -> bool:
        return self.memory_gib is not None or self.device is not None


@dataclass(frozen=True)
class Judged:
    """A recipe's part of the report; `command` trains it as it was asked about."""

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
    judged: Judged | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*self.machine, *(self.judged.findings if self.judged else ()))

    @property
    def fit(self) -> bool:
        return not any(finding.stops for finding in self.findings)

    def as_text(self) -> str:
        """For a terminal, at most 100 columns wide."""
        lines = finding_lines("this machine", self.machine) if self.machine else []
        if self.judged is not None:
            recipe = self.judged.subject.recipe
            lines += ["", *finding_lines(f"recipe {recipe.name}", self.judged.findings), ""]
            lines += prediction_lines(
                self.judged.subject,
                self.judged.prediction,
                self.judged.advice,
                self.judged.command,
            )
            if self.judged.measured is not None:
                lines += ["", *measured_lines(self.judged.measured)]
        lines += ["", _verdict(self)]
        return visible("\n".join(lines).strip("\n"))

    def as_json(self) -> str:
        """One object: `fit`, `machine`, and `recipe` where one was asked about."""
        value: dict[str, Any] = {
            "fit": self.fit,
            "machine": [asdict(finding) for finding in self.machine],
        }
        if self.judged is not None:
            value["recipe"] = _as_data(self.judged)
        return json.dumps(value, indent=2, ensure_ascii=False)


def run_doctor(request: Request) -> Report:
    """Errors: UserError for what is asked wrongly; RunFailure when a trial fails."""
    _check(request)
    facts = gather()
    hub = hubs.look(request.offline)
    judged = None if request.recipe is None else _judge(request, facts, hub)
    findings = [*machine.judge(facts), *packages.judge(), *hubs.judge(hub)]
    return Report(() if request.elsewhere else tuple(findings), judged)


def _check(request: Request) -> None:
    if request.recipe is None and (
        request.overrides or request.elsewhere or request.config or request.measure
    ):
        raise UserError(
            "--set, --memory, --device, --config and --measure go with a recipe: "
            "aha doctor countdown-tiny --measure."
        )
    if request.measure and (request.elsewhere or request.config):
        raise UserError(
            "--measure runs the recipe's own model on this machine; leave --memory, --device and "
            "--config out."
        )


def _judge(request: Request, facts: Facts, hub: hubs.Hub) -> Judged:
    recipe = load_recipe(request.recipe or "", request.overrides)
    require_known(recipe)
    shape = _shape(recipe, request.config, hub)
    asked = None if request.memory_gib is None else int(request.memory_gib * 2**30)
    place = place_of(facts, recipe, request.device, asked)
    subject = Subject(recipe, shape, place, prompts_of(recipe))
    advice = advise(subject)
    findings = [judge_memory(subject, advice), *judge_settings(subject, packages.installed)]
    if not request.elsewhere:
        findings.insert(0, judge_model(subject, hub, _cached))
        saved = 3 * sizes_of(recipe, shape, place, subject.prompts.tokens).trained_bytes
        findings.append(judge_checkpoints(subject, saved, facts.disks))
    settings = [word for override in request.overrides for word in ("--set", override)]
    return Judged(
        subject=subject,
        findings=tuple(findings),
        prediction=prediction(subject, {}),
        advice=advice,
        measured=measure(subject) if request.measure else None,
        command=shlex.join(["aha", "train", str(request.recipe), *settings]),
    )


def _shape(recipe: Recipe, config: Path | None, hub: hubs.Hub) -> Shape:
    """From this machine if it can be: the hub is asked only where it must."""
    try:
        return shape_of(recipe.model, config, online=False)
    except UserError:
        if not hub.reachable or config is not None:
            raise
    return shape_of(recipe.model, config, online=True)


def _cached(name: str, file: str) -> bool:
    return isinstance(try_to_load_from_cache(name, file), str)


def _verdict(report: Report) -> str:
    stopping = [finding.what for finding in report.findings if finding.stops]
    problems = [finding.what for finding in report.findings if finding.state == "problem"]
    if stopping:
        return f"Training cannot work yet: {', '.join(dict.fromkeys(stopping))}."
    if problems:
        return f"Training can work; look at {', '.join(dict.fromkeys(problems))}."
    return "Nothing stands in the way."


def _as_data(judged: Judged) -> dict[str, Any]:
    subject, predicted, advice = judged.subject, judged.prediction, judged.advice
    data: dict[str, Any] = {
        "name": subject.recipe.name,
        "findings": [asdict(finding) for finding in judged.findings],
        "place": asdict(subject.place),
        "prompts": asdict(subject.prompts),
        "predicted": {
            **asdict(predicted),
            "peak": predicted.peak.total,
            "peak_phase": predicted.peak.name,
        },
        "options": [_option_data(option) for option in advice.options],
        "recommended": None if advice.recommended is None else advice.recommended.settings,
        "largest_that_fits": advice.largest,
    }
    if judged.measured is not None:
        data["measured"] = {**asdict(judged.measured), "run_s": judged.measured.run_s}
    return data


def _option_data(option: Option) -> dict[str, Any]:
    return {
        "set": option.settings,
        "peak": option.peak,
        "phase": option.phase,
        "fits": option.fit,
    }
