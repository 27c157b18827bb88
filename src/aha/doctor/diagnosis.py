"""`aha doctor`: the checks, the prediction and the trial, as text or as one JSON object."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aha.doctor import estimate as estimates
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
from aha.doctor.estimate import CARDS, Estimate, card_of, estimate
from aha.doctor.hardware import Finding
from aha.doctor.preview import Subject, place_of, prompts_of, shape_of
from aha.doctor.sharded import Sharded, first_fit, sharded, sharded_finding
from aha.doctor.trial import Measured, measure
from aha.recipe import load_recipe
from aha.rewards.score import require_known
from aha.train.memory import PARTS, Device, Prediction, RunSizes
from aha.types import UserError
from aha.visible import text_template, visible


@dataclass(frozen=True)
class RecipeReport:
    """The part of the report on a recipe; `command` trains it with the settings asked about.

    `estimate` if a card's time was asked for. `sharded`: engine trl on a GPU or several.
    """

    subject: Subject
    findings: tuple[Finding, ...]
    prediction: Prediction
    advice: Advice
    measured: Measured | None
    estimate: Estimate | None
    sharded: tuple[Sharded, ...]
    gpus: int
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
        template = text_template(
            "aha.doctor",
            "report.txt.j2",
            wrap=lambda text, first="", rest="", width=100: textwrap.fill(
                text, width, initial_indent=first, subsequent_indent=rest
            ),
            gib=lambda count: f"{count / 2**30:.2f}",
            millions=lambda count: f"{count / 1e6:,.2f}",
            shell=shlex.quote,
        )
        text = template.render(report=self, parts=PARTS, assumed=estimates)
        return visible(text.strip("\n"))

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
            if about.sharded:
                value["recipe"]["sharded"] = [
                    asdict(one) | {"peak": one.peak} for one in about.sharded
                ]
            if about.measured is not None:
                value["recipe"]["measured"] = asdict(about.measured)
            if about.estimate is not None:
                step = {"step_s": about.estimate.step_s}
                value["recipe"]["estimate"] = asdict(about.estimate) | step
        return json.dumps(value, indent=2, ensure_ascii=False)


def diagnose(
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    *,
    memory_gib: float | None = None,
    device: str | None = None,
    timed: bool = False,
    gpus: int = 1,
    price: float | None = None,
    length: float | None = None,
    config: Path | None = None,
    offline: bool = False,
    measured: bool = False,
) -> Report:
    """The findings on this machine, and the memory of a recipe if one is named.

    With `memory_gib` or `device` (cpu, cuda, or a card of `CARDS`) the question is about another
    machine: this one is left out. `config`: a config.json of the recipe's model. `measured`: also
    take two real steps. `gpus`: so many for engine trl. `timed`: also estimate time and cost on
    them, each at `price` an hour, for completions of `length` tokens on average.
    Errors: UserError for a wrong question; RunFailure when a trial fails.
    """
    if device not in (None, "cpu", "cuda"):
        card = card_of(str(device))
        memory_gib = card.gib if memory_gib is None else memory_gib
    if timed and device not in CARDS:
        raise UserError(f"--estimate needs --device with a card: {', '.join(CARDS)}.")
    if not timed and (price is not None or length is not None):
        raise UserError("--price and --length go with --estimate.")
    kind: Device | None = "cuda" if device in CARDS else device  # type: ignore[assignment]
    elsewhere = memory_gib is not None or device is not None
    if recipe is None and (overrides or elsewhere or config or measured or gpus > 1):
        raise UserError(
            "--set, --memory, --device, --gpus, --config and --measure go with a recipe: "
            "aha doctor countdown-tiny --measure."
        )
    if measured and (elsewhere or config):
        raise UserError(
            "--measure runs the recipe's own model on this machine; leave --memory, --device and "
            "--config out."
        )
    if recipe is not None:
        # A misspelt name must not wait for the network.
        require_known(load_recipe(recipe, overrides))
    machine, hub, about = hardware.this_machine(), software.look_at_hub(offline), None
    if recipe is not None:
        loaded = load_recipe(recipe, overrides)
        try:
            # From this machine if possible: the hub is asked only where it must be.
            shape = shape_of(loaded.model, config, online=False)
        except UserError:
            if not hub.reachable or config is not None:
                raise
            shape = shape_of(loaded.model, config, online=True)
        limit = None if memory_gib is None else int(memory_gib * 2**30)
        place = place_of(machine, loaded, kind, limit)
        subject = Subject(loaded, shape, place, prompts_of(loaded))
        advice = advise(subject)
        on_trl = loaded.engine == "trl" and place.device == "cuda"
        if gpus > 1 and not on_trl:
            raise UserError(
                f"--gpus is {gpus}; allowed is 1: engine {loaded.engine!r} is one process there. "
                "On GPUs --set engine=trl takes several."
            )
        spread: tuple[Sharded, ...] = ()
        launched = ["aha", "train", recipe]
        memory = memory_finding(subject, advice)
        if on_trl:
            spread = sharded(loaded, shape, place, subject.prompts.tokens, gpus)
            memory = sharded_finding(spread, place.limit, gpus)
            if gpus > 1 and (fits := first_fit(spread, place.limit)):
                launched = ["aha", "launch", "accelerate", recipe, "--processes", str(gpus)]
                launched += ["--strategy", fits.strategy]
        found = [memory, *settings_findings(subject, software.installed)]
        if not elsewhere:
            saved = RunSizes(loaded, shape, place, subject.prompts.tokens).saved
            checkpoints = checkpoints_finding(subject, saved, machine.disks)
            found = [model_finding(subject, hub), *found, checkpoints]
        about = RecipeReport(
            subject=subject,
            findings=tuple(found),
            prediction=prediction(subject, ()),
            advice=advice,
            measured=measure(subject) if measured else None,
            estimate=estimate(
                loaded, shape, str(device), subject.prompts.tokens, gpus, length, price
            )
            if timed
            else None,
            sharded=spread,
            gpus=gpus,
            command=shlex.join([*launched, *(word for x in overrides for word in ("--set", x))]),
        )
    if elsewhere:
        return Report((), about)
    findings = hardware.hardware_findings(machine) + software.package_findings()
    return Report((*findings, *software.hub_findings(hub)), about)
