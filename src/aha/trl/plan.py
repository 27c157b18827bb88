"""How a step's completions are shared among processes and cut into micro-batches. No torch.

A step of a recipe is prompts_per_step * num_generations rows. TRL gives every process as many of
them, in order, and gathers rewards, so a group may lie across two processes; what must divide are
the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.types import UserError


@dataclass(frozen=True)
class BatchPlan:
    """A step's rows by process and micro-batch, under TRL's names.

    processes * per_device_train_batch_size * gradient_accumulation_steps is the step's rows.
    """

    processes: int
    per_device_train_batch_size: int
    gradient_accumulation_steps: int

    @property
    def rows_per_process(self) -> int:
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def rows(self) -> int:
        return self.processes * self.rows_per_process

    def __str__(self) -> str:
        return (
            f"{self.rows} completions a step on {self.processes} "
            f"process{'es' if self.processes > 1 else ''}: {self.gradient_accumulation_steps} "
            f"micro-batch{'es' if self.gradient_accumulation_steps > 1 else ''} of "
            f"{self.per_device_train_batch_size} each"
        )


def batch_plan(
    prompts_per_step: int,
    num_generations: int,
    processes: int,
    rows_per_microbatch: int | None = None,
) -> BatchPlan:
    """The plan with the largest micro-batches of at most `rows_per_microbatch` rows; none: any.

    Errors: UserError naming the counts of processes that would do when the rows cannot be shared.
    """
    rows = prompts_per_step * num_generations
    if rows % processes:
        *others, last = map(str, _divisors(rows))
        raise UserError(
            f"grpo.prompts_per_step ({prompts_per_step}) times generation.num_generations "
            f"({num_generations}) is {rows} completions a step, which {processes} processes "
            f"cannot share evenly; counts that would do: {', '.join(others)} or {last}."
        )
    share = rows // processes
    most = share if rows_per_microbatch is None else max(1, rows_per_microbatch)
    micro = max(size for size in _divisors(share) if size <= most)
    return BatchPlan(processes, micro, share // micro)


def _divisors(number: int) -> list[int]:
    low = [n for n in range(1, int(number**0.5) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})
