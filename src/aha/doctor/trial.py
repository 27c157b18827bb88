"""`aha doctor --measure`: two real steps of a recipe beside the prediction of their memory.

The steps run in a process of their own, so that the peak is only theirs. `python -m
aha.doctor.trial` reads the recipe as JSON and writes its measurements as a last line. The first
step is a warm-up; Adam's moments exist from the second step on. Every completion is trained on:
one more reward alternates, which gives each group signal whatever the model writes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aha.doctor.preview import Subject, process_bytes
from aha.model.free_memory import keep_freed_memory
from aha.observe.record import peak_memory_gb, step_record
from aha.recipe import Recipe, parse_recipe
from aha.rewards import CustomReward
from aha.rewards.score import WeightedReward
from aha.train.loop import train_step
from aha.train.memory import predict
from aha.train.state import prepare
from aha.types import RunFailure, UserError

# Rewards may print as well; only lines that begin so are for the doctor.
_MARK = "@aha-doctor "
# Larger than the recipe's own rewards together, so that no sum of them cancels it.
_WEIGHT = 1000.0


@dataclass(frozen=True)
class Trial:
    """Measurements of the steps: bytes before anything was loaded, peak, seconds, tokens.

    On a GPU the peak is that of its tensors. Times and lengths are the last step's.
    """

    before: int
    peak: int
    on_gpu: bool
    step_s: float
    rollout_s: float
    train_s: float
    first_step_s: float
    rows: int
    prompt_tokens: int
    mean_length: float
    max_length: float
    tokens_per_microbatch: int


@dataclass(frozen=True)
class Measured:
    """A trial beside its prediction; all peaks in bytes, of a process or of a GPU's tensors.

    `predicted`: the peak for the longest completions. `predicted_here`: for the trial's lengths.
    """

    trial: Trial
    predicted: int
    predicted_here: int
    steps: int
    evaluations: int
    problems: int

    @property
    def run_s(self) -> float:
        """Seconds of the whole recipe: its steps, and its evaluations at the rollout's speed.

        Valid while completions keep their length; in training most grow.
        """
        per_row = self.trial.rollout_s / self.trial.rows
        return self.steps * self.trial.step_s + self.evaluations * self.problems * per_row


def measure(subject: Subject) -> Measured:
    """Errors: UserError and RunFailure as `aha train`; RunFailure when the trial was killed."""
    recipe = subject.recipe
    trial = _in_a_process(recipe)
    context = subject.place.before if trial.on_gpu else 0  # a GPU's context is no tensor

    def peak(completion: int | None) -> int:
        predicted = predict(recipe, subject.shape, subject.place, trial.prompt_tokens, completion)
        # A trial writes no checkpoint.
        return max(p.total for p in predicted.phases if p.name != "checkpoint") - context

    every = recipe.evaluation.every
    return Measured(
        trial=trial,
        predicted=peak(None),
        predicted_here=peak(max(1, round(trial.mean_length))),
        steps=recipe.train.max_steps,
        evaluations=2 + (max(0, recipe.train.max_steps - 1) // every if every else 0),
        problems=recipe.evaluation.n,
    )


def _in_a_process(recipe: Recipe) -> Trial:
    done = subprocess.run(
        [sys.executable, "-m", "aha.doctor.trial"],
        input=json.dumps(recipe.model_dump(mode="json")),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [x.removeprefix(_MARK) for x in done.stdout.splitlines() if x.startswith(_MARK)]
    if not lines and done.returncode == -9:
        raise RunFailure("the trial was killed (signal 9), most likely for want of memory.")
    if not lines:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        raise RunFailure(f"the trial ended with code {done.returncode}: {last or 'no message'}")
    result = json.loads(lines[-1])
    if "fault" in result:
        raise (UserError if result["by_user"] else RunFailure)(result["fault"])
    return Trial(**result["trial"])


def _run_trial(recipe: Recipe) -> Trial:
    """Build the recipe's trainer as `aha train` does and take two steps; nothing is written."""
    before = process_bytes(recipe)
    keep_freed_memory()
    # No held-out problems: they are not part of a step.
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"n": 0})})
    trainer = prepare(recipe, None)

    def alternate(completions: Sequence[Any], **columns: Any) -> list[float]:
        return [float(index % 2) for index in range(len(completions))]

    alternating = WeightedReward(CustomReward("alternating", alternate, {}), _WEIGHT)
    trainer = replace(trainer, rewards=(*trainer.rewards, alternating))
    first = step_record(train_step(trainer, 1))
    finished = train_step(trainer, 2)
    last = step_record(finished)
    return Trial(
        before=before,
        peak=int(peak_memory_gb() * 2**30),
        on_gpu=trainer.model.device.type == "cuda",
        step_s=last["time/step_s"],
        rollout_s=last["time/rollout_s"],
        train_s=last["time/train_s"],
        first_step_s=first["time/step_s"],
        rows=last["samples"],
        prompt_tokens=max(len(group.prompt.token_ids) for group in finished.groups),
        mean_length=last["completions/mean_length"],
        max_length=last["completions/max_length"],
        tokens_per_microbatch=last["tokens_per_microbatch"],
    )


def main() -> None:
    recipe = parse_recipe(json.load(sys.stdin), "the recipe")
    try:
        result: dict[str, Any] = {"trial": asdict(_run_trial(recipe))}
    except (UserError, RunFailure) as error:
        result = {"fault": str(error), "by_user": isinstance(error, UserError)}
    print(_MARK + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
