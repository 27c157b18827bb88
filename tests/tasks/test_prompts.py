from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from aha.recipe import load_recipe
from aha.sections import PromptSection
from aha.tasks.ask import ask
from aha.tasks.countdown import make_problem
from aha.tasks.prompts import INSTRUCTIONS, render
from aha.tasks.registry import TASKS
from aha.types import Prompt, UserError

COLUMNS = {"target": 24, "nums": [3, 7, 12]}


def prompt(tokenizer: Any, **settings: Any) -> Prompt:
    return render(COLUMNS, TASKS["countdown"].question, PromptSection(**settings), tokenizer)


@pytest.fixture
def chat_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    templated = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    templated.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return templated


def test_compact_is_what_the_embedded_model_was_taught(tokenizer: PreTrainedTokenizerFast) -> None:
    made = prompt(tokenizer, style="compact")
    assert made.text == "Make 24 from 3 7 12 . <think>"
    assert tokenizer.decode(list(made.token_ids)) == made.text
    assert made.messages is None
    assert made.reply("x") == "x"


def test_compact_asks_countdown_only(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"prompt\.style is 'compact'"):
        render({"problem": "?"}, TASKS["gsm8k"].question, PromptSection(style="compact"), tokenizer)


@pytest.mark.parametrize("style", sorted(INSTRUCTIONS))
def test_every_style_as_plain_text(style: str, tokenizer: PreTrainedTokenizerFast) -> None:
    text = prompt(tokenizer, style=style).text
    assert text.startswith(INSTRUCTIONS[style])
    assert "User: Using the numbers [3, 7, 12]" in text
    assert text.endswith("\nAssistant: <think>")


@pytest.mark.parametrize("style", sorted(INSTRUCTIONS))
def test_every_style_through_a_chat_template(
    style: str, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    made = prompt(chat_tokenizer, style=style, format="chat")
    assert made.text.endswith("[assistant] <think>")
    assert ("[system]" in made.text) == (style != "plain")
    assert made.messages is not None
    assert made.messages[-1] == {"role": "assistant", "content": "<think>"}
    assert made.reply("x") == [{"role": "assistant", "content": "x"}]


def test_examples_stand_before_the_problem(
    tokenizer: PreTrainedTokenizerFast, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = [{"problem": "1 and 1 to 2", "completion": "<think>1+1</think>"}]
    plain = prompt(tokenizer, examples=examples).text
    assert "User: 1 and 1 to 2\nAssistant: <think>1+1</think>\nUser: Using" in plain
    chat = prompt(chat_tokenizer, format="chat", prefill="", examples=examples)
    assert "[user] 1 and 1 to 2\n[assistant] <think>1+1</think>\n[user] Using" in chat.text
    assert chat.messages is not None
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant", "user"]


def test_a_system_text_of_ones_own(tokenizer: PreTrainedTokenizerFast) -> None:
    assert prompt(tokenizer, system="Be brief.").text.startswith("Be brief.\nUser:")


def test_a_model_without_template_is_one_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"prompt\.format is 'chat'"):
        prompt(tokenizer, format="chat")


def test_the_recipe_asks(tokenizer: PreTrainedTokenizerFast) -> None:
    (made,) = ask([make_problem([3, 7, 12], 24)], load_recipe("countdown-tiny"), tokenizer)
    assert made.text == "Make 24 from 3 7 12 . <think>"
