from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aha.reasoning import behaviours
from aha.reasoning.behaviours import BEHAVIOURS, Pattern, Rule, find_behaviours, rules

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "behaviours.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]
RULES = rules()
PATTERNS = [(rule, pattern) for rule in RULES for pattern in rule.patterns]


def shown(text: str, task: str) -> set[str]:
    return {passage.behaviour for passage in find_behaviours(text, task)}


def phrases(text: str, task: str, behaviour: str) -> list[str]:
    return [text[p.start : p.end] for p in find_behaviours(text, task) if p.behaviour == behaviour]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.behaviour}-{rule.name}")
def test_every_rule_finds_its_example(rule: Rule) -> None:
    assert any(pattern.regex.search(rule.example.lower()) for pattern in rule.patterns)
    assert rule.behaviour in shown(rule.example, rule.task)


def test_rules_have_names_of_their_own() -> None:
    names = [(rule.behaviour, rule.name) for rule in RULES]
    assert len(set(names)) == len(names)
    assert {rule.behaviour for rule in RULES} == set(BEHAVIOURS)


@pytest.mark.parametrize(
    ("text", "task", "expected"),
    [
        ("39 + 5 = 44 , not 15 . </think>", "countdown", {"self_check"}),
        ("19 - 17 = 2 , yes . </think>", "countdown", {"self_check"}),
        (
            "3 + 4 = 7 , not 15 . Wait, 3 * 5 = 15 , yes .",
            "countdown",
            {"self_check", "backtracking"},
        ),
        ("9 + 5 = 14, still not 15. 9 + 6 = 15", "countdown", {"self_check", "backtracking"}),
        ("9 + 5 = 14, not 15. </think>", "countdown", {"self_check"}),
        ("To get 24 we could make 8 and then multiply by 3.", "countdown", {"subgoals"}),
        ("To reach 75 from 25 we need 3.", "countdown", {"backward_chaining"}),
        ("24 / 6 = 4, so the rest must give 4.", "countdown", {"backward_chaining"}),
        ("Step 1: find how many are left.", "gsm8k", {"subgoals"}),
        ("Step 1: 3 * 4 = 12", "gsm8k", set()),
        ("That doesn't work, let's try 12.", "gsm8k", {"backtracking"}),
        ("That doesn\u2019t work.", "gsm8k", {"backtracking"}),
        ("Plugging x = 3 back in gives 7.", "math", {"self_check"}),
        ("Plugging in x = 3 we get 7.", "math", set()),
        ("She waits, then checks her list of 3 steps.", "gsm8k", set()),
        ("Wait, is that right? 18 * 4 = 72.", "gsm8k", {"self_check"}),
        ("", "countdown", set()),
    ],
)
def test_texts_show_what_they_show(text: str, task: str, expected: set[str]) -> None:
    assert shown(text, task) == expected


def test_countdown_has_rules_of_its_own() -> None:
    text = "She pays 19 - 17 = 2 , yes ."
    assert shown(text, "countdown") == {"self_check"}
    assert shown(text, "gsm8k") == shown(text, "") == shown(text, "a task of your own") == set()


def test_passages_are_places_in_the_text_as_written() -> None:
    # "\u0130" becomes two characters in lower case.
    text = "\u0130\u0130 3 + 4 = 7 , NOT 15 . WAIT, 3 * 5 = 15"
    assert phrases(text, "countdown", "backtracking") == ["WAIT,"]
    assert phrases(text, "countdown", "self_check") == ["= 7 , NOT 15"]


def test_near_phrases_are_one_passage_and_far_ones_two() -> None:
    near = "Wait, that doesn't work. Let's try again: 3"
    assert phrases(near, "", "backtracking") == ["Wait, that doesn't work. Let's try again"]
    far = "Wait, 3 * 5 = 16 is too much. Wait, 3 * 4 = 12"
    assert phrases(far, "", "backtracking") == ["Wait,", "Wait,"]


@given(st.text(max_size=200), st.sampled_from(["", "countdown", "gsm8k", "math"]))
def test_passages_of_any_text_are_in_order_and_apart(text: str, task: str) -> None:
    ends = dict.fromkeys(BEHAVIOURS, 0)
    starts = [0]
    for passage in find_behaviours(text, task):
        assert starts[-1] <= passage.start < passage.end <= len(text)
        assert passage.start >= ends[passage.behaviour]
        ends[passage.behaviour] = passage.end
        starts.append(passage.start)


def test_repetition_in_patterns_is_bounded() -> None:
    for rule, pattern in PATTERNS:
        outside = re.sub(r"\[(?:\\.|[^\]])*\]|\\.", "c", pattern.regex.pattern)
        assert not re.search(r"[*+]|\{[0-9]*,\}", outside), (rule.name, pattern.written)


@pytest.mark.parametrize("number", range(0, len(PATTERNS), 3))
def test_what_a_pattern_matches_holds_one_of_its_cues(number: int) -> None:
    pattern: Pattern = PATTERNS[number][1]

    @settings(
        max_examples=12, database=None, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.from_regex(pattern.regex))
    def holds(text: str) -> None:
        if text == text.lower() and behaviours._matches("", pattern, text):
            assert number in behaviours._worth_a_search(text)

    holds()


def test_cues_hide_nothing_in_the_labelled_texts() -> None:
    for row in ROWS:
        view = behaviours._view(row["text"])
        searched = behaviours._worth_a_search(view)
        for number, (rule, pattern) in enumerate(PATTERNS):
            if behaviours._matches(rule.behaviour, pattern, view):
                assert number in searched, (row["id"], rule.name, pattern.written)


def figures(keep: Callable[[dict[str, Any]], bool], behaviour: str) -> tuple[int, int, int]:
    """Right finds, wrong finds, misses."""
    pairs = [
        (behaviour in shown(row["text"], row["task"]), behaviour in row["labels"])
        for row in ROWS
        if keep(row)
    ]
    return (
        sum(found and label for found, label in pairs),
        sum(found and not label for found, label in pairs),
        sum(label and not found for found, label in pairs),
    )


def held_out(row: dict[str, Any]) -> bool:
    return int(row["id"][1:]) % 2 == 0


# A little below what docs/reasoning.md states; the labels are never changed to fit.
@pytest.mark.parametrize(
    ("behaviour", "precision", "recall"),
    [
        ("self_check", 0.80, 0.65),
        ("backtracking", 0.80, 0.65),
        ("subgoals", 0.88, 0.60),
        ("backward_chaining", 0.75, 0.37),
    ],
)
def test_held_out_rows_are_read_as_well_as_stated(
    behaviour: str, precision: float, recall: float
) -> None:
    assert sum(map(held_out, ROWS)) == 100
    right, wrong, missed = figures(held_out, behaviour)
    assert right / (right + wrong) >= precision
    assert right / (right + missed) >= recall


@pytest.mark.parametrize(("behaviour", "labelled"), [("self_check", 24), ("backtracking", 13)])
def test_texts_of_the_toy_model_are_read_without_a_fault(behaviour: str, labelled: int) -> None:
    assert figures(lambda row: row["source"] == "tiny", behaviour) == (labelled, 0, 0)


@pytest.mark.parametrize("behaviour", ["subgoals", "backward_chaining"])
def test_the_toy_model_plans_nothing(behaviour: str) -> None:
    assert figures(lambda row: row["source"] == "tiny", behaviour) == (0, 0, 0)


@pytest.mark.parametrize("task", ["countdown", "gsm8k", "math"])
@pytest.mark.parametrize(
    "unit",
    ["a", " ", "\n", ".", "1", "1 + ", "wait, ", "not 15 ", "to find the to get ", "let me ",
     "if we need to for x to be ", "how many ", "first ", "is that ", "= 1 ", "so 5 it is "],
)  # fmt: skip
def test_long_hostile_texts_take_little_time(unit: str, task: str) -> None:
    text = (unit * 100_000)[:100_000]
    start = time.process_time()
    find_behaviours(text, task)
    assert time.process_time() - start < 5


def test_reading_behaviours_imports_nothing_heavy() -> None:
    code = (
        "import aha.reasoning.behaviours, aha.reasoning.analysis, aha.reasoning.compare, sys;"
        "print(sorted({'scipy', 'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rules_are_read_at_first_use_and_once() -> None:
    code = (
        "import yaml; read = []; load = yaml.load;"
        "yaml.load = lambda *args, **kwargs: read.append(1) or load(*args, **kwargs);"
        "from aha.reasoning.behaviours import find_behaviours; print(len(read));"
        "find_behaviours('Wait, no'); find_behaviours('Wait, no', 'math'); print(len(read))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
