from __future__ import annotations

from dataclasses import replace

import pytest

from aha.answers.equations import WrittenStep
from aha.reasoning.analysis import Analysis
from aha.reasoning.behaviours import Passage
from aha.report.moments import moments, sampled
from aha.report.run_data import RunData, Written, load
from aha.runs import RunDirectory


def moment(
    key: str, text: str, *shows: str, correct: bool = True, corrected: bool = True, false: int = 0
) -> Written:
    passages = tuple(Passage(name, 0, 1) for name in ("backtracking", *shows))
    steps = tuple(WrittenStep(0, 1, False) for _ in range(false))
    analysis = Analysis(passages=passages, steps=steps, corrected=corrected, reflections=1)
    return Written(key, f"prompt {key}", text, correct, 5, "held out", analysis)


@pytest.fixture
def data(run: RunDirectory) -> RunData:
    return replace(load(run), after=(), samples=())


def prompts(data: RunData) -> list[str]:
    return [one.prompt[-1] for one in moments(data)[0]]


def test_the_order_is_the_stated_rule(data: RunData) -> None:
    after = (
        moment("a", "short", "self_check", false=1),
        moment("b", "much longer text", "self_check", "subgoals"),
        moment("c", "longer text", "self_check"),
        moment("d", "text it", "self_check"),
    )
    assert prompts(replace(data, after=after)) == ["b", "d", "c", "a"]


def test_only_what_gave_up_a_try_and_ended_right_qualifies(data: RunData) -> None:
    no_phrase = moment("z", "t")
    no_phrase = replace(no_phrase, analysis=replace(no_phrase.analysis, passages=()))
    after = (
        moment("a", "wrong", correct=False),
        moment("b", "nothing given up", corrected=False),
        no_phrase,
    )
    assert moments(replace(data, after=after)) == ([], 0)


def test_one_a_problem_and_one_a_story(data: RunData) -> None:
    after = tuple(moment(key, f"{i} + 1 = 4, not {i}. Wait") for i, key in enumerate("abcde"))
    after += (moment("a", "again the first problem"), moment("x", "another story, wait"))
    found, qualified = moments(replace(data, after=after))
    # Two stories, the shorter first, and one more of a story so that there are three.
    assert [one.prompt[-1] for one in found] == ["x", "a", "b"]
    assert qualified == 7


def test_there_are_twelve_at_most(data: RunData) -> None:
    after = tuple(moment(f"{c}", f"story {c}") for c in "abcdefghijklmnop")
    assert len(moments(replace(data, after=after))[0]) == 12


def test_samples_are_judged_strictly_and_say_their_step(run: RunDirectory) -> None:
    found = sampled(load(run))
    # Of the four sampled completions one is right.
    assert [(one.key, one.correct, one.where) for one in found] == [
        ("countdown:33", True, "training, step 10")
    ]


def test_of_many_samples_those_with_most_reward_are_read(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aha.report.moments.SAMPLED", 2)
    right = run.read_lines("samples.jsonl")[1]["completions"][0]
    record = run.read_lines("samples.jsonl")[1]
    for step, reward in ((20, 1.0), (30, None), (40, 0.5), (50, 1.0)):
        run.append_samples([{**record, "step": step, "completions": [{**right, "reward": reward}]}])
    assert [one.where for one in sampled(load(run))] == ["training, step 50", "training, step 20"]
