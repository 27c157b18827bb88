from __future__ import annotations

from pathlib import Path

from made_run import TARGETS, MakeRun, aha

from aha.report.moments import case_study
from aha.report.pages import render_report
from aha.report.run_data import load
from aha.runs import RunDirectory


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
