"""Tasks by name. To add one, write its class in a module here and add a line to `TASKS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aha.answers.tags import Text, with_opened_thoughts
from aha.sections import TaskSection
from aha.tasks.countdown import Countdown
from aha.tasks.data import ProblemSet
from aha.tasks.modular import Modular
from aha.tasks.reasoning_gym import ReasoningGym
from aha.tasks.task import Split, Task, Verdict
from aha.tasks.text import BespokeStratos, Custom, Gsm8k, Math, NuminaMathTir
from aha.tasks.word_problems import WordProblems
from aha.types import Group

_SHIPPED = (
    Countdown, Modular, WordProblems, Gsm8k, Math, NuminaMathTir, BespokeStratos, ReasoningGym,
    Custom,
)  # fmt: skip
TASKS: dict[str, Task] = {task.name: task() for task in _SHIPPED}


def task_of(columns: Mapping[str, Any]) -> Task:
    """The task that a row belongs to, by its columns; `custom`, a plain text, if none claims it.

    Rewards get columns and no task's name: that is TRL's convention.
    """
    return next((task for task in TASKS.values() if task.claims(columns)), TASKS[Custom.name])


def load_problems(section: TaskSection, split: Split, limit: int | None) -> ProblemSet:
    """The problems of a recipe's task. Limits and errors: as `Task.load`."""
    return TASKS[section.name].load(section, split, limit)


def check_groups(groups: Sequence[Group]) -> list[Verdict]:
    """The verdicts on all completions of a step's groups, one after another."""
    rows = [(group, completion) for group in groups for completion in group.completions]
    return check_completions(
        [group.prompt.text for group, _ in rows],
        [completion.text for _, completion in rows],
        [group.problem.columns for group, _ in rows],
        groups[0].prompt.layout,
    )


def check_completions(
    prompts: Sequence[Text],
    completions: Sequence[Text],
    rows: Sequence[Mapping[str, Any]],
    layout: str | None = None,
) -> list[Verdict]:
    """The verdicts that accuracies and format rates are counted from; rows hold the columns.

    `layout` is the one that the prompts ask for (`Prompt.layout`); None for any.
    """
    texts = [with_opened_thoughts(p, c) for p, c in zip(prompts, completions, strict=True)]
    by_task: dict[str, list[int]] = {}
    for index, columns in enumerate(rows):
        by_task.setdefault(task_of(columns).name, []).append(index)
    verdicts: dict[int, Verdict] = {}
    for name, indices in by_task.items():
        of_task = [rows[i] for i in indices]
        found = TASKS[name].check_many(of_task, [texts[i] for i in indices], layout)
        verdicts.update(zip(indices, found, strict=True))
    return [verdicts[index] for index in range(len(texts))]


def check_completion(
    prompt: Text, completion: Text, columns: Mapping[str, Any], layout: str | None = None
) -> Verdict:
    """`check_completions` for one completion."""
    return check_completions([prompt], [completion], [columns], layout)[0]


__all__ = [
    "TASKS",
    "ProblemSet",
    "Split",
    "Task",
    "Verdict",
    "check_completion",
    "check_completions",
    "load_problems",
    "task_of",
]
