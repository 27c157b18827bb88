"""Two real steps of a recipe in a process of their own, so that the peak is theirs alone.

`python -m aha.doctor.trial` reads the recipe as JSON and writes what it measured as a last line.
The first step is a warm-up, and the first with Adam's moments is the second. Every completion is
trained on: one more reward that alternates gives each group signal, whatever the model writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from aha.doctor.asking import process_bytes
from aha.observe.record import peak_memory_gb, step_record
from aha.recipe import Recipe, parse_recipe
from aha.rewards import CustomReward
from aha.rewards.score import WeightedReward
from aha.train.loop import train_step
from aha.train.memory import keep_freed_memory
from aha.train.setup import Trainer, build_trainer
from aha.types import RunFailure, UserError

# Rewards may print as well; only this line is for the doctor.
MARK = "@aha-doctor "
_STEPS = 2
# Beyond what the recipe's own rewards give, so that no sum of them cancels it.
_WEIGHT = 1000.0


@dataclass(frozen=True)
class Trial:
    """What the steps took: bytes held before anything was loaded, the peak, seconds, tokens.

    On a GPU the peak is of its tensors. Times and lengths are the last step's.
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


def run_trial(recipe: Recipe) -> Trial:
    """Build the recipe's trainer as `aha train` does and take two steps; nothing is written."""
    before = process_bytes(recipe)
    keep_freed_memory()
    # No held-out problems: they are not part of a step.
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"n": 0})})
    trainer = _with_signal(build_trainer(recipe, None))
    records = []
    for step in range(1, _STEPS + 1):
        finished = train_step(trainer, step)
        records.append(step_record(finished))
    longest = max(len(group.prompt.token_ids) for group in finished.groups)
    return _trial(trainer, before, records, longest)


def _trial(
    trainer: Trainer, before: int, records: Sequence[dict[str, Any]], prompt_tokens: int
) -> Trial:
    last = records[-1]
    return Trial(
        before=before,
        peak=int(peak_memory_gb() * 2**30),
        on_gpu=trainer.model.device.type == "cuda",
        step_s=last["time/step_s"],
        rollout_s=last["time/rollout_s"],
        train_s=last["time/train_s"],
        first_step_s=records[0]["time/step_s"],
        rows=last["samples"],
        prompt_tokens=prompt_tokens,
        mean_length=last["completions/mean_length"],
        max_length=last["completions/max_length"],
        tokens_per_microbatch=last["tokens_per_microbatch"],
    )


def _with_signal(trainer: Trainer) -> Trainer:
    def alternate(completions: Sequence[Any], **columns: Any) -> list[float]:
        return [float(index % 2) for index in range(len(completions))]

    alternating = WeightedReward(CustomReward("alternating", alternate, {}), _WEIGHT)
    return replace(trainer, rewards=(*trainer.rewards, alternating))


def main() -> None:
    recipe = parse_recipe(json.load(sys.stdin), "the recipe")
    try:
        result: dict[str, Any] = {"trial": asdict(run_trial(recipe))}
    except (UserError, RunFailure) as error:
        result = {"fault": str(error), "by_user": isinstance(error, UserError)}
    print(MARK + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
