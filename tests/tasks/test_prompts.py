from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from aha.tasks.prompts import render
from aha.types import UserError

COLUMNS = {"target": 24, "nums": [3, 7, 12]}


def test_compact_is_what_the_embedded_model_was_taught(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = render(COLUMNS, "compact", tokenizer)
    assert prompt.text == "Make 24 from 3 7 12 . <think>"
    assert tokenizer.decode(list(prompt.token_ids)) == prompt.text


def test_base_models_get_a_conversation_with_opened_thoughts(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    prompt = render(COLUMNS, "r1-base", tokenizer)
    assert prompt.text.startswith("A conversation between User and Assistant.")
    assert "[3, 7, 12]" in prompt.text
    assert "equals 24" in prompt.text
    assert prompt.text.endswith("\n<think>")


def test_instruct_models_get_their_template(tokenizer: PreTrainedTokenizerFast) -> None:
    templated: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    templated.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
    )
    text = render(COLUMNS, "r1-chat", templated).text
    assert text.startswith("[system] You are a helpful assistant.")
    assert "[assistant] Let me solve this step by step.\n<think>" in text


def test_a_model_without_template_is_one_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"prompt\.style is 'r1-chat'"):
        render(COLUMNS, "r1-chat", tokenizer)
