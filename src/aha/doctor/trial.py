"""`aha doctor --measure`: two real steps of a recipe beside the prediction of their memory.

The steps run in a process of their own, so that the peak is only theirs. The first step is a
warm-up; Adam's moments exist from the second step on. Every completion is trained on:
one more reward alternates, which gives each group signal whatever the model writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from aha.bench.worker import Worker
from aha.bench.workload import alternate
from aha.doctor.preview import Subject, process_bytes
from aha.model.free_memory import keep_freed_memory
from aha.observe.record import peak_memory_gb, step_record
from aha.recipe import Recipe
from aha.rewards import CustomReward
from aha.rewards.score import WeightedReward
from aha.train.loop import train_step
from aha.train.memory import predict
from aha.train.state import prepare

# Larger than the recipe's own rewards together, so that no sum of them cancels it.
_WEIGHT = 1000.0


@dataclass(frozen=True)
class Measured:
    """A trial beside its prediction; all peaks in bytes, of a process or of a GPU's tensors.

    `trial`: bytes before anything was loaded, peak, seconds, tokens; times and lengths are the last
    step's. `predicted`: the peak for the longest completions. `predicted_here`: for the trial's
    lengths. `run_s`: seconds of the whole recipe, its evaluations at the rollout's speed. It is
    valid while completions keep their length; in training most grow.
    """

    trial: Mapping[str, Any]
    predicted: int
    predicted_here: int
    steps: int
    evaluations: int
    problems: int
    run_s: float


def measure(subject: Subject) -> Measured:
    """Errors: UserError and RunFailure as `aha train`; RunFailure when the trial was killed."""
    recipe = subject.recipe
    with Worker("the trial", _run_trial, recipe) as worker:
        trial: dict[str, Any] = worker.receive()
    context = subject.place.before if trial["on_gpu"] else 0  # a GPU's context is no tensor

    def peak(completion: int | None) -> int:
        prompt = trial["prompt_tokens"]
        predicted = predict(recipe, subject.shape, subject.place, prompt, completion)
        # A trial writes no checkpoint.
        return max(p.total for p in predicted.phases if p.name != "checkpoint") - context

    steps, every, problems = recipe.train.max_steps, recipe.evaluation.every, recipe.evaluation.n
    evaluations = 2 + (max(0, steps - 1) // every if every else 0)
    evaluation_s = problems * trial["rollout_s"] / trial["rows"]
    return Measured(
        trial=trial,
        predicted=peak(None),
        predicted_here=peak(max(1, round(trial["mean_length"]))),
        steps=steps,
        evaluations=evaluations,
        problems=problems,
        run_s=steps * trial["step_s"] + evaluations * evaluation_s,
    )


def _run_trial(recipe: Recipe, connection: Connection) -> None:
    """Build the recipe's trainer as `aha train` does and take two steps; nothing is written."""
    before = process_bytes(recipe)
    keep_freed_memory()
    # No held-out problems: they are not part of a step.
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"n": 0})})
    trainer = prepare(recipe, None)
    alternating = WeightedReward(CustomReward("alternating", alternate, {}), _WEIGHT)
    trainer = replace(trainer, rewards=(*trainer.rewards, alternating))
    first = step_record(train_step(trainer, 1))
    finished = train_step(trainer, 2)
    last = step_record(finished)
    trial = {
        "before": before,
        "peak": int(peak_memory_gb() * 2**30),
        "on_gpu": trainer.model.device.type == "cuda",
        "step_s": last["time/step_s"],
        "rollout_s": last["time/rollout_s"],
        "train_s": last["time/train_s"],
        "first_step_s": first["time/step_s"],
        "rows": last["samples"],
        "prompt_tokens": max(len(group.prompt.token_ids) for group in finished.groups),
        "mean_length": last["completions/mean_length"],
        "max_length": last["completions/max_length"],
        "tokens_per_microbatch": last["tokens_per_microbatch"],
    }
    connection.send(trial)
