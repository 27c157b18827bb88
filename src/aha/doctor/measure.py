"""A trial beside its prediction, and how long the whole recipe would take."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from aha.doctor.asking import Subject
from aha.doctor.memory import predict
from aha.doctor.trial import MARK, Trial
from aha.recipe import Recipe
from aha.types import RunFailure, UserError


@dataclass(frozen=True)
class Measured:
    """`predicted`: the peak for completions as long as they may be; `predicted_here` for as long
    as they were. All peaks in bytes, of the same thing: a process, or a GPU's tensors."""

    trial: Trial
    predicted: int
    predicted_here: int
    steps: int
    evaluations: int
    problems: int

    @property
    def run_s(self) -> float:
        """Seconds of the whole recipe: its steps, and its evaluations at the rollout's speed.

        As long as completions stay as they are; in training they mostly grow.
        """
        per_row = self.trial.rollout_s / self.trial.rows
        return self.steps * self.trial.step_s + self.evaluations * self.problems * per_row


def measure(subject: Subject) -> Measured:
    """Errors: UserError and RunFailure as `aha train`; RunFailure when the trial was killed."""
    recipe = subject.recipe
    trial = _run(recipe)
    place, prompts = subject.place, trial.prompt_tokens
    there = place.before if trial.on_gpu else 0  # a GPU's context is no tensor

    def peak(completion: int | None) -> int:
        phases = predict(recipe, subject.shape, place, prompts, completion).phases
        # A trial writes no checkpoint.
        return max(p.total for p in phases if p.name != "checkpoint") - there

    every = recipe.evaluation.every
    return Measured(
        trial=trial,
        predicted=peak(None),
        predicted_here=peak(max(1, round(trial.mean_length))),
        steps=recipe.train.max_steps,
        evaluations=2 + (max(0, recipe.train.max_steps - 1) // every if every else 0),
        problems=recipe.evaluation.n,
    )


def _run(recipe: Recipe) -> Trial:
    command = [sys.executable, "-m", "aha.doctor.trial"]
    # A file for what goes wrong: nobody reads a second pipe meanwhile.
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(  # noqa: S603
            command,
            input=json.dumps(recipe.model_dump(mode="json")),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
        errors.seek(0)
        last = " ".join(errors.read().strip().splitlines()[-1:])
    lines = [x.removeprefix(MARK) for x in done.stdout.splitlines() if x.startswith(MARK)]
    if not lines:
        raise RunFailure(_ended(done.returncode, last))
    result = json.loads(lines[-1])
    if "fault" in result:
        raise (UserError if result["by_user"] else RunFailure)(result["fault"])
    return Trial(**result["trial"])


def _ended(code: int, last: str) -> str:
    if code == -9:
        return "the trial was killed (signal 9), most likely for want of memory."
    return f"the trial ended with code {code}: {last or 'no message'}"
