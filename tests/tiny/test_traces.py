from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from transformers import AutoConfig, PreTrainedTokenizerFast

from aha.tasks import check_completion
from aha.tasks.countdown import Countdown
from aha.tasks.task import split_of
from aha.tiny import weights_path
from aha.tiny.traces import (
    TINY_RANGES,
    TraceSettings,
    all_attempts,
    completion_text,
    prompt_text,
)
from aha.types import Problem

SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return list(islice(Countdown().generate(TINY_RANGES, "train", seed=0), 400))


def traces(problems: list[Problem], **settings: float) -> list[str]:
    rng = random.Random(0)
    chosen = TraceSettings(**settings)  # type: ignore[arg-type]
    return [completion_text(p.columns, chosen, rng) for p in problems]


def test_every_sum_and_every_check_is_true(problems: list[Problem]) -> None:
    operators = {
        "+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__,
    }  # fmt: skip
    for problem, text in zip(problems, traces(problems), strict=True):
        for left, operator, right, value in SUM.findall(text):
            assert operators[operator](int(left), int(right)) == int(value)
        for value, verdict in re.findall(r"= (\d+) , (yes|not)", text):
            assert (verdict == "yes") == (int(value) == problem.columns["target"])


def test_a_trace_is_right_exactly_when_its_last_check_says_so(problems: list[Problem]) -> None:
    outcomes = set()
    for problem, text in zip(problems, traces(problems), strict=True):
        prompt = prompt_text(problem.columns["nums"], problem.columns["target"])
        verdict = check_completion(prompt, text, problem.columns)
        assert verdict.well_formed
        assert verdict.strict == (", yes . </think>" in text)
        outcomes.add(verdict.strict)
    assert outcomes == {True, False}


def test_a_search_that_never_gives_up_solves_nearly_all(problems: list[Problem]) -> None:
    patient = traces(problems, stop_after_failure=0.0, max_tries=1_000)
    assert all("yes" in text for text in patient)


def test_no_try_is_made_twice(problems: list[Problem]) -> None:
    for text in traces(problems, stop_after_failure=0.0, max_tries=1_000, guided_share=0.0):
        tries = text.split("</think>")[0].split(" Wait, ")
        assert len(set(tries)) == len(tries)


def test_attempts_use_each_number_once_within_the_vocabulary(problems: list[Problem]) -> None:
    for problem in problems[:50]:
        nums = problem.columns["nums"]
        for attempt in all_attempts(nums, TINY_RANGES.max_value):
            assert sorted(int(n) for n in re.findall(r"\d+", attempt.expression)) == sorted(nums)
            assert all(0 <= step.value <= 199 for step in attempt.steps)


def test_every_trace_is_in_the_vocabulary_and_reads_back(
    problems: list[Problem], tokenizer: PreTrainedTokenizerFast
) -> None:
    assert len(tokenizer) <= AutoConfig.from_pretrained(weights_path()).vocab_size
    for problem, text in zip(problems, traces(problems), strict=True):
        whole = f"{prompt_text(problem.columns['nums'], problem.columns['target'])} {text}"
        ids = tokenizer.encode(whole)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == whole


def test_it_is_not_taught_held_out_problems() -> None:
    for problem in islice(Countdown().generate(TINY_RANGES, "train", seed=0), 2_000):
        assert split_of(problem.key) == "train"


def test_numbers_and_punctuation_may_touch(tokenizer: PreTrainedTokenizerFast) -> None:
    loose = tokenizer.encode("Make 24 from 3 7 12 . <think> 3 + 7 = 10 , Wait, </think>")
    tight = tokenizer.encode("Make 24 from 3 7 12.\n<think>3+7=10, Wait,</think>")
    assert tight == loose
