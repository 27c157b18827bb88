"""The report as lines of text, at most 100 columns wide."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from aha.doctor.advice import Advice, Option
from aha.doctor.asking import Subject
from aha.doctor.finding import Finding
from aha.doctor.measure import Measured
from aha.doctor.memory import PARTS, Phase, Prediction

WIDTH = 100
_STATE, _WHAT = 10, 20


def finding_lines(title: str, findings: Sequence[Finding]) -> list[str]:
    """A title, then state, subject and what was found; under it what to do."""
    return [title, *(line for finding in findings for line in _finding(finding))]


def prediction_lines(
    subject: Subject, predicted: Prediction, advice: Advice, command: str
) -> list[str]:
    """Memory by part and phase, then the settings and which of them fit.

    `command` trains the recipe as it was asked about; the recommended settings follow it.
    """
    lines = textwrap.wrap(_premises(subject, predicted), WIDTH)
    lines += ["", *_parts(predicted.phases), ""]
    return lines + _options(advice) + _recommended(command, advice)


def measured_lines(measured: Measured) -> list[str]:
    """The trial beside the prediction."""
    trial = measured.trial
    lengths = f"{trial.mean_length:.0f} tokens on average, {trial.max_length:.0f} at most"
    rows = [
        ("predicted, completions at their limit", _gib(measured.predicted)),
        (
            f"predicted, completions of {trial.mean_length:.0f} tokens",
            _gib(measured.predicted_here),
        ),
        ("measured, second of two steps", _gib(trial.peak)),
        ("of which before anything was loaded", _gib(trial.before)),
    ]
    whole = (
        f"{trial.rows} completions, {lengths}. A step took {trial.step_s:.1f} s (rollout "
        f"{trial.rollout_s:.1f} s, update {trial.train_s:.1f} s); {measured.steps} of them and "
        f"{measured.evaluations} evaluations of {measured.problems} problems would take "
        f"{_duration(measured.run_s)} if completions stayed that long."
    )
    shown = rows if not trial.on_gpu else rows[:3]
    return [
        "peak memory" + (" of the GPU's tensors" if trial.on_gpu else " of the process"),
        *(f"  {label:<44}{value:>10}" for label, value in shown),
        *textwrap.wrap(whole, WIDTH),
    ]


def _finding(finding: Finding) -> list[str]:
    head = f"  {finding.state:<{_STATE - 2}}{finding.what:<{_WHAT}}"
    indent = " " * (_STATE + _WHAT)
    lines = textwrap.wrap(finding.found, WIDTH, initial_indent=head, subsequent_indent=indent)
    if finding.advice:
        lines += textwrap.wrap(
            finding.advice, WIDTH, initial_indent=indent + "-> ", subsequent_indent=indent + "   "
        )
    return lines


def _premises(subject: Subject, predicted: Prediction) -> str:
    shape, place, generation = subject.shape, subject.place, subject.recipe.generation
    where = "a CPU" if place.device == "cpu" else "a GPU"
    counted = "an assumption" if subject.prompts.assumed else "the longest of some"
    trained = ""
    if predicted.trained < predicted.parameters:
        trained = f", {predicted.trained / 1e6:,.2f} M of them trained"
    return (
        f"Predicted memory in GiB on {where} with {_gib(place.limit)}: "
        f"{predicted.parameters / 1e6:,.2f} M parameters{trained} (sizes from {shape.known_from}), "
        f"prompts of {subject.prompts.tokens} tokens ({counted}), every completion at its limit of "
        f"{generation.max_completion_length}, {predicted.tokens_per_microbatch:,} tokens a "
        "micro-batch, from the second step on."
    )


def _parts(phases: Sequence[Phase]) -> list[str]:
    peak = max(phase.total for phase in phases)
    lines = [f"  {'':<14}" + "".join(f"{phase.name:>16}" for phase in phases)]
    for part in PARTS:
        if any(phase.parts.get(part) for phase in phases):
            cells = (phase.parts.get(part, 0) for phase in phases)
            lines.append(f"  {part:<14}" + "".join(f"{_number(cell):>16}" for cell in cells))
    totals = (f"{'peak ' * (p.total == peak)}{p.total / 2**30:.2f}" for p in phases)
    return [*lines, f"  {'all':<14}" + "".join(f"{total:>16}" for total in totals)]


def _options(advice: Advice) -> list[str]:
    lines = [f"  {'settings':<66}{'peak, GiB':>10}  {'in':<10}{'fits':>6}"]
    for option in advice.options:
        label = " ".join(option.settings) or "as it is"
        *above, last = textwrap.wrap(label, 66)
        lines += [f"  {line}" for line in above]
        peak = f"{option.peak / 2**30:>10.2f}"
        lines.append(f"  {last:<66}{peak}  {_short(option):<10}{option.fit:>6}")
    return lines


def _recommended(command: str, advice: Advice) -> list[str]:
    if advice.fits:
        tight = ", by less than a prediction may be wrong" * (advice.options[0].fit == "tight")
        return ["", f"It fits as it is{tight}."]
    if advice.recommended is None:
        size = (advice.largest or 0) / 1e6
        text = f"None of these fits. About {size:,.0f} M parameters of this shape would."
        return ["", *textwrap.wrap(text, WIDTH)]
    first, *others = (f"--set {shlex.quote(setting)}" for setting in advice.recommended.settings)
    # A shell takes it as it stands, over several lines too.
    return ["", *" \\\n  ".join([f"Recommended: {command} {first}", *others]).split("\n")]


def _short(option: Option) -> str:
    return option.phase.split()[0]


def _number(count: int) -> str:
    return f"{count / 2**30:.2f}" if count else "-"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
