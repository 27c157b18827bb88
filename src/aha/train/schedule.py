"""The learning rate of a step: linear warm-up, then constant, linear or cosine decay."""

from __future__ import annotations

import math

from aha.sections import OptimizerSection


def learning_rate_at(step: int, max_steps: int, settings: OptimizerSection) -> float:
    """The rate of step 1..max_steps.

    The first step already learns (its rate is 1/n of the top with n warm-up steps), and
    decay ends at `min_lr_ratio` of the top after the last step.
    """
    warmup = math.ceil(settings.warmup_ratio * max_steps)
    if step <= warmup:
        return settings.learning_rate * step / warmup
    if settings.lr_scheduler_type == "constant":
        return settings.learning_rate
    progress = (step - 1 - warmup) / max(1, max_steps - warmup)
    remaining = (
        1 - progress
        if settings.lr_scheduler_type == "linear"
        else 0.5 * (1 + math.cos(math.pi * progress))
    )
    floor = settings.min_lr_ratio
    return settings.learning_rate * (floor + (1 - floor) * remaining)
