from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_run import TARGETS, MakeRun, aha
from markupsafe import Markup

from aha.answers.equations import WrittenStep
from aha.reasoning.analysis import Analysis
from aha.reasoning.behaviours import Passage
from aha.report.moments import case_study, marked, moments, preview, sampled
from aha.report.pages import render_report
from aha.report.run_data import RunData, Written, load
from aha.runs import RunDirectory
from aha.visible import visible


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


def record(run: RunDirectory, step: int, text: str) -> dict[str, object]:
    sample = run.read_lines("samples.jsonl")[0]
    completion = {**sample["completions"][0], "text": text}
    return {**sample, "step": step, "completions": [completion]}


def test_the_held_out_case_is_typical_and_reflects(run: RunDirectory) -> None:
    case = case_study(load(run))
    assert case is not None
    assert case.title == "One held-out problem, before and after"
    # Missed before and right after: four problems (6 was right before, 20 is wrong after), each
    # with one reflection; the median by key of 12, 15, 8, 9 as texts is 8.
    assert "Of the 4 problems" in case.how
    assert case.prompt.startswith("Make 8 from")
    assert [(when, one.correct) for when, one in case.stages] == [
        ("Before training", False),
        ("After training", True),
    ]


def test_a_problem_sampled_often_is_followed_through_training(run: RunDirectory) -> None:
    right = "2 + 1 = 3 , 27 + 3 = 30 , yes . </think> <answer> 27 + 2 + 1 </answer>"
    texts = dict.fromkeys(range(2, 11), "no idea") | {11: right}
    run.append_samples([record(run, step, text) for step, text in texts.items()])
    case = case_study(load(run))
    assert case is not None
    assert case.title == "One problem through training"
    # Eleven steps; six of them, evenly: 1, 3, 5, 7, 9, 11.
    assert [when for when, _ in case.stages] == [f"Step {s}" for s in (1, 3, 5, 7, 9, 11)]
    assert [one.correct for _, one in case.stages] == [False] * 5 + [True]


def test_a_case_is_shown_unfolded_however_long(make_run: MakeRun) -> None:
    long = {target: f"{'x ' * 500}{aha(target)}" for target in TARGETS}
    html = render_report(make_run(after=long))
    case = html[html.index('<section id="case">') : html.index('<section id="cost">')]
    assert "x x x" in case
    assert "<details" not in case


def test_no_case_is_no_case(run: RunDirectory) -> None:
    run.write_lines("eval-after.jsonl", run.read_lines("eval-before.jsonl"))
    assert case_study(load(run)) is None


def test_no_files_no_case(run: RunDirectory) -> None:
    for name in ("eval-before.jsonl", "samples.jsonl"):
        Path(run.path / name).unlink()
    assert case_study(load(run)) is None


def test_a_held_out_problem_is_followed_where_it_was_asked_during_training(
    run: RunDirectory,
) -> None:
    before = run.read_lines("eval-before.jsonl")
    for step in range(10, 70, 10):
        run.write_lines(f"evals/step-{step:06d}.jsonl", before)
    case = case_study(load(run))
    assert case is not None
    assert case.title == "One held-out problem, before, during and after"
    # Six evaluations in between, four of them shown: 10, 30, 40, 60 of 10 to 60.
    assert [when for when, _ in case.stages] == [
        "Before training", "Step 10", "Step 30", "Step 40", "Step 60", "After training",
    ]  # fmt: skip
    assert [one.correct for _, one in case.stages] == [False] * 5 + [True]


def analysis(*passages: Passage, steps: tuple[WrittenStep, ...] = ()) -> Analysis:
    return Analysis(passages=passages, steps=steps, corrected=False, reflections=0)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a\u202eb\u2069", "a⟨U+202E⟩b⟨U+2069⟩"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\u200e\u200f\u061c\ufeff\x00\x9b", "⟨U+200E⟩⟨U+200F⟩⟨U+061C⟩⟨U+FEFF⟩⟨U+0000⟩⟨U+009B⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("line\n\ttab é 日本 👩\u200d🔬", "line\n\ttab é 日本 👩\u200d🔬"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text: str, seen: str) -> None:
    assert visible(text) == seen


def test_marks_stand_where_the_passages_are_and_text_is_escaped() -> None:
    text = "a <b> Wait, c & 1 + 1 = 3"
    shown = marked(
        text,
        analysis(Passage("backtracking", 6, 10), steps=(WrittenStep(16, 25, False),)),
    )
    assert shown == Markup(
        'a &lt;b&gt; <span class="turn"></span>'
        '<mark class="backtracking" title="backtracking">Wait</mark>, c &amp; '
        '<mark class="false" title="false equation">1 + 1 = 3</mark>'
    )


def test_overlapping_passages_are_marked_once() -> None:
    shown = marked("abcdef", analysis(Passage("self_check", 0, 4), Passage("subgoals", 2, 6)))
    assert shown == Markup('<mark class="self-check" title="self check">abcd</mark>ef')


def test_a_long_text_is_folded_and_cut_in_its_middle() -> None:
    text = "x" * 4_000 + "y" * 994_000 + "z" * 2_000
    assert preview(text) == "x" * 110 + "…"
    shown = marked(text)
    assert "994,000 characters left out" in shown
    assert "y" not in shown
    assert shown.endswith("z" * 2_000)


def test_a_short_text_is_not_folded() -> None:
    assert preview("short") == preview("x" * 900) == ""
    assert preview("x" * 901)


def test_a_megabyte_of_marks_takes_no_time() -> None:
    text = "wait " * 200_000
    found = analysis(*(Passage("backtracking", i, i + 4) for i in range(0, len(text), 5)))
    started = time.perf_counter()
    shown = marked(text, found)
    assert len(shown) < 200_000
    # Quadratic work would take minutes.
    assert time.perf_counter() - started < 10
