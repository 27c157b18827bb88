"""How a problem is asked: each style turns a question into the text that the model sees.

`r1-chat` is for instruct models (system prompt, chat template), `r1-base` for base models
(DeepSeek-R1's conversation as plain text), `compact` for the embedded model. All end in an
opened `<think>`, so that every completion begins with thoughts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from aha.types import Prompt, UserError

THINK = "<think>"

_R1_INSTRUCTION = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant "
    "solves it. The Assistant first thinks about the reasoning process in the mind and then "
    "gives the User the answer. The reasoning process and the answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, that is, <think> reasoning "
    "process here </think> <answer> answer here </answer>."
)
_SYSTEM = (
    "You are a helpful assistant. You first think about the reasoning process in the mind and "
    "then give the user the answer."
)


class PromptTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that prompts need."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


def countdown_question(columns: Any) -> str:
    """The Countdown question in TinyZero's words, for models that read English."""
    return (
        f"Using the numbers {list(columns['nums'])}, create an equation that equals "
        f"{columns['target']}. You can use basic arithmetic operations (+, -, *, /) and each "
        "number can only be used once. Show your work in <think> </think> tags. And return the "
        "final equation in <answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>."
    )


def compact_question(columns: Any) -> str:
    """The Countdown question in the embedded model's few words."""
    return f"Make {columns['target']} from {' '.join(str(n) for n in columns['nums'])} ."


def _r1_base(columns: Any, tokenizer: PromptTokenizer) -> tuple[str, bool]:
    question = countdown_question(columns)
    return (
        f"{_R1_INSTRUCTION}\nUser: {question}\nAssistant: Let me solve this step by step.\n",
        True,
    )


def _r1_chat(columns: Any, tokenizer: PromptTokenizer) -> tuple[str, bool]:
    if not tokenizer.chat_template:
        raise UserError(
            "prompt.style is 'r1-chat', but this model's tokenizer has no chat template; use "
            "'r1-base'."
        )
    messages = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": countdown_question(columns)},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # The template has written the special tokens already.
    return f"{text}Let me solve this step by step.\n", False


def _compact(columns: Any, tokenizer: PromptTokenizer) -> tuple[str, bool]:
    return f"{compact_question(columns)} ", True


STYLES = {"r1-base": _r1_base, "r1-chat": _r1_chat, "compact": _compact}


def render(columns: Any, style: str, tokenizer: PromptTokenizer) -> Prompt:
    """One problem as the model sees it, opened `<think>` included.

    Errors: UserError when the style does not fit the tokenizer.
    """
    text, add_special_tokens = STYLES[style](columns, tokenizer)
    text += THINK
    token_ids = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    return Prompt(text=text, prefill=THINK, token_ids=tuple(token_ids))


def render_all(
    problems: Sequence[Any], style: str, tokenizer: PromptTokenizer
) -> tuple[Prompt, ...]:
    """`render` for a sequence of problems."""
    return tuple(render(problem.columns, style, tokenizer) for problem in problems)
