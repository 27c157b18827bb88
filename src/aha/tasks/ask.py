"""The prompts of a recipe's problems."""

from __future__ import annotations

from collections.abc import Sequence

from aha.recipe import Recipe
from aha.tasks.prompts import PromptTokenizer, render
from aha.tasks.registry import TASKS
from aha.types import Problem, Prompt


def ask(
    problems: Sequence[Problem], recipe: Recipe, tokenizer: PromptTokenizer
) -> tuple[Prompt, ...]:
    """Each problem as the model sees it. Errors: UserError as `render`."""
    question = TASKS[recipe.task.name].question
    return tuple(render(p.columns, question, recipe.prompt, tokenizer) for p in problems)
