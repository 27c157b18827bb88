"""Prompts: a style's instruction, the question, and the prefill that the completion begins with.

The style names the layout of the answer. `format` is the model's chat template, or plain text for
base models. The prefill, often an opened `<think>`, belongs to the prompt: the completion goes on
from it, and rewards count it as written. Some chat templates open the thoughts themselves
(R1-Distill, QwQ, Qwen3-Thinking); their tag is then part of the prefill.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from aha.answers.tags import opened_thoughts
from aha.recipe import Recipe
from aha.sections import PromptSection
from aha.tasks import TASKS, Task
from aha.tasks.task import Columns
from aha.types import Problem, Prompt, UserError
from aha.visible import package_yaml

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINK = "<think>"

INSTRUCTIONS: Mapping[str, str] = package_yaml("aha.tasks", "instructions.yaml")
# The layout of `aha.answers.tags.LAYOUTS` that each style asks for; `plain` asks for none.
LAYOUT_OF: Mapping[str, str | None] = {
    "r1": "think",
    "think-answer": "think",
    "compact": "think",
    "reasoning-answer": "reasoning",
    "boxed": "boxed",
    "hash": "hash",
    "plain": None,
}


def ask(
    problems: Sequence[Problem],
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    wishes: Sequence[int] | None = None,
) -> tuple[Prompt, ...]:
    """Each problem of a recipe's task as the model sees it. Errors: UserError as `render`.

    `wishes`: the lengths to ask for, in tokens, where the recipe has `length.wish`; by default each
    problem has one of its own, always the same.
    """
    task, between = TASKS[recipe.task.name], recipe.length.wish
    if between is None:
        return tuple(render(p.columns, task, recipe.prompt, tokenizer) for p in problems)
    if wishes is None:
        wishes = [random.Random(f"{p.key}:wish").randint(*between) for p in problems]
    pairs = zip(problems, wishes, strict=True)
    return tuple(render(p.columns, task, recipe.prompt, tokenizer, wish) for p, wish in pairs)


def render(
    columns: Columns,
    task: Task,
    settings: PromptSection,
    tokenizer: PreTrainedTokenizerBase,
    wish: int | None = None,
) -> Prompt:
    """`ask` for one problem. Errors: UserError if the style does not fit the task or tokenizer."""
    question = task.compact_question(columns) if settings.style == "compact" else None
    if settings.style == "compact":
        if question is None:
            raise UserError(
                "prompt.style is 'compact', which asks Countdown problems only; allowed for this "
                f"task are {', '.join(INSTRUCTIONS)}."
            )
        # The embedded model has a token for each number, and none for words such as "tokens".
        text = " ".join([question, *([] if wish is None else [str(wish)]), settings.prefill])
    else:
        question = task.question(columns)
        if wish is not None:
            question += f" Think for {wish} tokens."
        instruction = INSTRUCTIONS[settings.style] if settings.system is None else settings.system
        if settings.format == "chat":
            return replace(_chat(instruction, question, settings, tokenizer), wish=wish)
        # User and Assistant by name, as base models saw them in their texts.
        turns = [instruction] if instruction else []
        for example in settings.examples:
            turns.append(f"User: {example.problem}\nAssistant: {example.completion}")
        turns.append(f"User: {question}\nAssistant: {settings.prefill}")
        text = "\n".join(turns)
    token_ids = tokenizer.encode(text, add_special_tokens=True)
    layout = LAYOUT_OF[settings.style]
    return Prompt(text, settings.prefill, tuple(token_ids), layout=layout, wish=wish)


def _chat(
    instruction: str, question: str, settings: PromptSection, tokenizer: PreTrainedTokenizerBase
) -> Prompt:
    if not tokenizer.chat_template:
        raise UserError(
            "prompt.format is 'chat', but this model's tokenizer has no chat template; allowed is "
            "'text'."
        )
    messages = [{"role": "system", "content": instruction}] if instruction else []
    for example in settings.examples:
        messages.append({"role": "user", "content": example.problem})
        messages.append({"role": "assistant", "content": example.completion})
    messages.append({"role": "user", "content": question})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"prompt.format is 'chat', but this model's chat template refuses the turns {roles}: "
            f"{' '.join(str(error).split())}; allowed are prompt.format 'text', or an empty "
            "prompt.system, which leaves the system turn with its instruction out."
        ) from None
    opened, prefill = opened_thoughts(text), settings.prefill
    if opened and opened.strip() in prefill:
        # The template wrote the opening tag of the prefill; only the rest is added.
        prefill = prefill.partition(opened.strip())[2].lstrip()
    if opened + prefill:
        messages.append({"role": "assistant", "content": opened + prefill})
    # The template has written the special tokens already.
    token_ids = tokenizer.encode(text + prefill, add_special_tokens=False)
    layout = LAYOUT_OF[settings.style]
    return Prompt(text + prefill, opened + prefill, tuple(token_ids), tuple(messages), layout)
