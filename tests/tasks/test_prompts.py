from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from aha.recipe import load_recipe
from aha.rewards import load_reward
from aha.sections import PromptSection
from aha.tasks import TASKS, check_completion
from aha.tasks.countdown import make_problem
from aha.tasks.prompts import INSTRUCTIONS, LAYOUT_OF, ask, render
from aha.types import Prompt, UserError

COLUMNS = {"target": 24, "nums": [3, 7, 12]}


def prompt(tokenizer: Any, **settings: Any) -> Prompt:
    return render(COLUMNS, TASKS["countdown"], PromptSection(**settings), tokenizer)


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
        render({"problem": "?"}, TASKS["gsm8k"], PromptSection(style="compact"), tokenizer)


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


OPENS = "[assistant] <think>\n"
DOES_NOT = "[assistant] "
DONE = "1 + 2 </think> <answer>3 + 7 + 12</answer>"


@pytest.mark.parametrize(
    ("generation_prompt", "prefill", "end", "turn"),
    [
        (OPENS, "<think>", OPENS, "<think>\n"),
        (OPENS, "", OPENS, "<think>\n"),
        (OPENS, "<think>\n", OPENS, "<think>\n"),
        (OPENS, "Step by step.\n<think>", OPENS, "<think>\n"),
        (OPENS, "<think>\nFirst", OPENS + "First", "<think>\nFirst"),
        (OPENS, "First", OPENS + "First", "<think>\nFirst"),
        (OPENS, "<reasoning>", OPENS + "<reasoning>", "<think>\n<reasoning>"),
        (DOES_NOT, "<think>", DOES_NOT + "<think>", "<think>"),
        (DOES_NOT, "So.\n<think>", DOES_NOT + "So.\n<think>", "So.\n<think>"),
        (DOES_NOT, "", DOES_NOT, None),
    ],
)
def test_a_template_that_opens_the_thoughts_opens_them_once(
    generation_prompt: str,
    prefill: str,
    end: str,
    turn: str | None,
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    template = chat_tokenizer.chat_template
    chat_tokenizer.chat_template = template.replace(DOES_NOT, generation_prompt)
    made = prompt(chat_tokenizer, style="plain", format="chat", prefill=prefill)
    assert made.text.endswith(end)
    assert made.text.count("<think>") == (1 if turn else 0)
    assert made.text.endswith(made.prefill)
    assert list(made.token_ids) == chat_tokenizer.encode(made.text, add_special_tokens=False)
    assert made.messages is not None
    assert made.messages[-1]["content"] == (turn or TASKS["countdown"].question(COLUMNS))


@pytest.mark.parametrize("prefill", ["<think>", ""])
@pytest.mark.parametrize("generation_prompt", [OPENS, DOES_NOT])
def test_the_format_reward_counts_the_tag_that_the_prompt_opened(
    generation_prompt: str, prefill: str, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    template = chat_tokenizer.chat_template
    chat_tokenizer.chat_template = template.replace(DOES_NOT, generation_prompt)
    made = prompt(chat_tokenizer, style="plain", format="chat", prefill=prefill)
    opened = bool(prefill) or generation_prompt == OPENS
    for text, expected in ((DONE, opened), (f"<think>{DONE}", not opened)):
        (value,) = load_reward("format")(prompts=[made.for_rewards], completions=[made.reply(text)])
        assert value == float(expected)
        for asked, answer in ((made.for_rewards, made.reply(text)), (made.text, text)):
            verdict = check_completion(asked, answer, {"target": 22, "nums": [3, 7, 12]})
            assert (verdict.strict, verdict.lenient) == (expected, True)


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


def test_a_template_without_a_system_role_is_one_sentence(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    refusal = (
        "{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
    )
    chat_tokenizer.chat_template = refusal + str(chat_tokenizer.chat_template)
    with pytest.raises(UserError, match="turns system, user: System role not supported; allowed"):
        prompt(chat_tokenizer, format="chat")
    # What the sentence names works.
    assert prompt(chat_tokenizer, format="chat", system="").text.startswith("[user] Using")
    assert prompt(chat_tokenizer, format="text").text.startswith(INSTRUCTIONS["r1"])


def test_the_recipe_asks(tokenizer: PreTrainedTokenizerFast) -> None:
    (made,) = ask([make_problem([3, 7, 12], 24)], load_recipe("countdown-tiny"), tokenizer)
    assert made.text == "Make 24 from 3 7 12 . <think>"


def test_each_style_names_its_layout(tokenizer: PreTrainedTokenizerFast) -> None:
    assert set(LAYOUT_OF) == set(INSTRUCTIONS) | {"compact"}
    section = PromptSection(style="hash", prefill="")
    prompt = render({"problem": "1 + 1?"}, TASKS["custom"], section, tokenizer)
    assert prompt.layout == "hash"
