from __future__ import annotations

import random
import re
from itertools import islice

import pytest
from transformers import AutoConfig, PreTrainedTokenizerFast

from aha.tasks import check_completion
from aha.tasks.task import split_of
from aha.tiny import TINY_NAME, weights_path
from aha.tiny.traces import (
    LESSONS,
    Lesson,
    TraceSettings,
    completion_text,
    prompt_text,
    shuffled,
    tiny_tokenizer,
)
from aha.types import Problem

SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module", params=LESSONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def lesson(name: str) -> Lesson:
    return LESSONS[name]


@pytest.fixture(scope="module")
def problems(lesson: Lesson) -> list[Problem]:
    return list(islice(lesson.task.generate(lesson.ranges, "train", seed=0), 400))


def traces(lesson: Lesson, problems: list[Problem], **settings: float) -> list[str]:
    rng = random.Random(0)
    chosen = TraceSettings(**settings)  # type: ignore[arg-type]
    return [completion_text(lesson, p.columns, chosen, rng) for p in problems]


def test_every_sum_and_every_check_is_true(lesson: Lesson, problems: list[Problem]) -> None:
    operators = {
        "+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__,
    }  # fmt: skip
    for problem, text in zip(problems, traces(lesson, problems), strict=True):
        for left, operator, right, value in SUM.findall(text):
            assert operators[operator](int(left), int(right)) == int(value)
        for value, verdict in re.findall(r"= (\d+) , (yes|not)", text):
            assert (verdict == "yes") == (int(value) == problem.columns["target"])


def test_a_trace_is_right_exactly_when_its_last_check_says_so(
    lesson: Lesson, problems: list[Problem]
) -> None:
    outcomes = set()
    for problem, text in zip(problems, traces(lesson, problems), strict=True):
        prompt = prompt_text(lesson, problem.columns)
        verdict = check_completion(prompt, text, problem.columns)
        assert verdict.well_formed
        assert verdict.strict == (", yes . </think>" in text)
        outcomes.add(verdict.strict)
    assert outcomes == {True, False}


def test_a_search_that_never_gives_up_solves_nearly_all(
    lesson: Lesson, problems: list[Problem]
) -> None:
    patient = traces(lesson, problems, stop_after_failure=0.0, max_tries=1_000)
    assert all("yes" in text for text in patient)


def test_no_try_is_made_twice(lesson: Lesson, problems: list[Problem]) -> None:
    for text in traces(lesson, problems, stop_after_failure=0.0, max_tries=1_000, guided_share=0.0):
        tries = text.split("</think>")[0].split(" Wait, ")
        assert len(set(tries)) == len(tries)


def test_attempts_use_each_number_once_within_the_vocabulary() -> None:
    countdown = LESSONS[TINY_NAME]
    for problem in islice(countdown.task.generate(countdown.ranges, "train", seed=0), 50):
        nums = problem.columns["nums"]
        for attempt in countdown.attempts(problem.columns):
            assert sorted(int(n) for n in re.findall(r"\d+", attempt.answer)) == sorted(nums)
            assert all(0 <= step.value <= 199 for step in attempt.steps)


def test_one_try_of_each_x_is_right(lesson: Lesson, problems: list[Problem]) -> None:
    if lesson.task.name != "modular":
        pytest.skip("only modular equations have one solution")
    for problem in problems[:100]:
        attempts = lesson.attempts(problem.columns)
        values = [attempt.steps[-1].value for attempt in attempts]
        # Every remainder comes once, so there is exactly one hit.
        assert sorted(values) == list(range(problem.columns["m"]))
        assert all(0 <= step.value <= 199 for attempt in attempts for step in attempt.steps)


def test_every_trace_is_in_the_vocabulary_and_reads_back(
    name: str, lesson: Lesson, problems: list[Problem]
) -> None:
    tokenizer = tiny_tokenizer(lesson.words)
    assert len(tokenizer) <= AutoConfig.from_pretrained(weights_path(name)).vocab_size
    for problem, text in zip(problems, traces(lesson, problems), strict=True):
        whole = f"{prompt_text(lesson, problem.columns)} {text}"
        ids = tokenizer.encode(whole)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == whole


def test_only_given_numbers_are_shuffled() -> None:
    columns = {"nums": [1, 2, 3, 4, 5, 6], "target": 7}
    found = shuffled(columns, random.Random(0))
    assert found["nums"] != columns["nums"]
    assert sorted(found["nums"]) == columns["nums"]
    assert shuffled({"a": 1}, random.Random(0)) == {"a": 1}


def test_it_is_not_taught_held_out_problems(lesson: Lesson) -> None:
    for problem in islice(lesson.task.generate(lesson.ranges, "train", seed=0), 2_000):
        assert split_of(problem.key) == "train"


def test_numbers_and_punctuation_may_touch(tokenizer: PreTrainedTokenizerFast) -> None:
    loose = tokenizer.encode("Make 24 from 3 7 12 . <think> 3 + 7 = 10 , Wait, </think>")
    tight = tokenizer.encode("Make 24 from 3 7 12.\n<think>3+7=10, Wait,</think>")
    assert tight == loose
