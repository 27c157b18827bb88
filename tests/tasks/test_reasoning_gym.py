"""reasoning-gym's sets as a task: gold answers, wrong ones, hostile ones, and rows made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from aha.rewards import load_reward
from aha.sections import TaskSection
from aha.tasks import TASKS, check_completions, task_of
from aha.tasks import reasoning_gym as gym
from aha.tasks.task import split_of
from aha.types import Problem, UserError
from command_line import aha_here

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: aha-zero[gym]")
TASK = TASKS["reasoning-gym"]
ALL = sorted(gym.known_sets())
REFUSED = gym.refused()
GOOD = [name for name in ALL if name not in REFUSED]
# Sets that take longer than a second for three problems, of both splits.
SLOW = {
    "countdown", "futoshiki", "intermediate_integration", "knight_swap", "puzzle24", "sudoku",
    "zebra_puzzles",
}  # fmt: skip
WRONG = "zzz wrong"


class InProcess:
    """The verifier without a process, which would take seconds to start for each set."""

    def __init__(self, name: str, config: str) -> None:
        self.verifier = gym.verifier_of(name, config)

    def ask_many(self, requests: Sequence[Any]) -> list[float]:
        return [self.verifier(request) for request in requests]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "_workers", InProcess)
    # A small block, because some sets make all its problems first.
    cached = gym.dataset_of
    monkeypatch.setattr(gym, "dataset_of", lambda n, c, seed, size=20: cached(n, c, seed, size))


def problems(name: str, n: int, split: str = "train", **config: Any) -> list[Problem]:
    section = TaskSection(name=TASK.name, dataset=name, config=config)
    return list(islice(TASK.generate(section, split, 0), n))  # type: ignore[arg-type]


def in_layout(answer: str) -> str:
    return f"<think> x </think> <answer>{answer}</answer>"


def rewards(rows: Sequence[Any], texts: Sequence[str]) -> list[float | None]:
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return load_reward("gym")(prompts=[""] * len(rows), completions=list(texts), **columns)


def check_set(name: str) -> None:
    """Gold answers score fully and wrong ones do not; rows are the same in every way of storing."""
    made = problems(name, 2)
    gym._made_again.cache_clear()
    rows = [json.loads(json.dumps(dict(problem.columns))) for problem in made]
    assert [problem.columns for problem in made] == rows
    assert problems(name, 2) == made
    assert all(task_of(row) is TASK for row in rows)
    assert all(split_of(problem.key) == "train" for problem in made)
    golds = [in_layout(row["answer"]) for row in rows]
    bad = [in_layout(WRONG)] * len(rows)
    assert [v.strict for v in check_completions(["", ""], golds, rows)] == [True, True]
    assert [v.lenient for v in check_completions(["", ""], bad, rows)] == [False, False]
    assert rewards(rows, golds) == [1.0, 1.0]
    assert all(0.0 <= (value or 0.0) < 1.0 for value in rewards(rows, bad))
    assert rewards(rows, ["", "no answer"]) == [0.0, 0.0]
    assert TASK.difficulty(rows[0]).startswith(name)


@pytest.mark.parametrize("name", [name for name in GOOD if name not in SLOW])
def test_gold_answers_score_fully_and_wrong_ones_do_not(name: str, in_process: None) -> None:
    check_set(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_the_slow_sets_too(name: str, in_process: None) -> None:
    check_set(name)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_set_has_its_fault_still(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be trained on"):
        gym.dataset_of(name, "{}", 0, 5)
    monkeypatch.setattr(gym, "refused", dict)
    reason = REFUSED[name]
    if "parts" in reason:
        with pytest.raises(AssertionError, match="at least one dataset"):
            gym.dataset_of(name, "{}", 0, 5)
        return
    entry = gym.dataset_of(name, "{}", 0, 5)[0]
    if "no gold" in reason:
        assert not entry["answer"]
    elif "every text" in reason:
        score = gym.verifier_of(name, "{}")
        assert score([gym._packed(entry), WRONG]) == 1.0


@pytest.mark.slow
def test_other_processes_make_the_same_problems_but_of_the_refused_sets() -> None:
    code = """
import hashlib, json, reasoning_gym, sys
found = {}
for word in sys.argv[1:]:
    name, count = word.split(":")
    made = reasoning_gym.create_dataset(name, seed=987654, size=300)
    texts = json.dumps([made[index]["question"] for index in range(int(count))])
    found[name] = hashlib.sha256(texts.encode()).hexdigest()
print("\\n" + json.dumps(found))  # bf prints dots
"""
    names = [name for name in ALL if name != "composite"]
    words = [f"{name}:{3 if name in SLOW else 150}" for name in names]
    one, two = (
        json.loads(
            subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code, *words],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True, text=True, check=True,
            ).stdout.splitlines()[-1]
        )
        for seed in ("1", "2")
    )  # fmt: skip
    differ = {name for name in names if one[name] != two[name]}
    assert differ == {n for n, why in REFUSED.items() if "hash seed" in why or "function" in why}


def test_at_least_ninety_sets_can_be_trained_on() -> None:
    assert len(GOOD) >= 90
    assert set(REFUSED) <= set(ALL)


def test_the_seed_moves_training_problems_only() -> None:
    def keys(split: str, seed: int) -> set[str]:
        section = TaskSection(
            name=TASK.name, dataset="chain_sum", data_seed=seed, config={"max_terms": 3}
        )
        return {problem.key for problem in TASK.load(section, split, 30).problems}  # type: ignore[arg-type]

    assert keys("train", 0) == keys("train", 0)
    assert keys("train", 0) != keys("train", 1)
    assert keys("test", 0) == keys("test", 1)
    assert not keys("train", 0) & keys("test", 0)


def test_a_set_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    problems("bf", 3)
    assert capfd.readouterr().out == ""


def test_a_small_set_ends_and_has_no_problem_twice() -> None:
    made = problems("gcd", 500, min_value=1, max_value=6)
    assert len({p.columns["problem"] for p in made}) == len(made) < 36


@pytest.mark.parametrize(
    ("name", "hostile"),
    [
        ("countdown", "9**9**9**9"),
        ("binary_matrix", "entry['answer'].split()"),
        ("countdown", "__import__('os').system('touch hostile')"),
        ("countdown", "open('hostile', 'w')"),
        ("countdown", "(" * 100_000),
        ("prime_factorization", "two"),
    ],
)
def test_a_hostile_answer_scores_nothing_and_harms_nothing(
    name: str, hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = problems(name, 1)
    texts = [in_layout(hostile), in_layout(problem.columns["answer"])]
    begin = time.monotonic()
    values = rewards([problem.columns] * 2, texts)
    assert (values[0] or 0.0) <= 0.01
    assert values[1] == 1.0
    assert time.monotonic() - begin < 60
    assert not list(tmp_path.iterdir())
    gym._workers(name, "{}").close()


def test_a_problem_of_another_version_is_refused() -> None:
    (problem,) = problems("gcd", 1)
    with pytest.raises(UserError, match="another one with the installed reasoning-gym"):
        gym.entry_of({**problem.columns, "problem": "Other?"})


def test_rows_of_a_file_are_problems_again(tmp_path: Path) -> None:
    made = problems("gcd", 5)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(dict(p.columns)) + "\n" for p in made))
    section = TaskSection(name=TASK.name, source=str(rows), test_source=str(rows))
    assert list(TASK.load(section, "test", None).problems) == made
    both = section.model_copy(update={"dataset": "gcd"})
    with pytest.raises(UserError, match=r"leave out task\.dataset"):
        TASK.load(both, "test", None)
    rows.write_text('{"problem": "x"}\n')
    with pytest.raises(UserError, match="line 1: column 'answer' is missing"):
        TASK.load(section, "test", None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "task.dataset is missing"),
        (["task.dataset=gdc"], "task.dataset is 'gdc'; it should be one of ab, acre"),
        (["task.dataset=boxnet"], "it has no gold answer"),
        (["task.dataset=gcd", "task.config={max_terms: 3}"], "'max_terms', which gcd does not"),
        (["task.dataset=gcd", "task.config={min_numbers: 1}"], "min_numbers must be at least 2"),
        (["task.dataset=gcd", "task.config={min_numbers: x}"], "with which gcd makes no problem"),
        (["task.dataset=gcd", "task.config={seed: 1}"], "'seed', which gcd does not know"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(settings: list[str], message: str, tmp_path: Path) -> None:
    section = [item for setting in settings for item in ("--set", setting)]
    done = aha_here("data", "show", "gsm8k-xml-0.5b", "--set", "model.name=aha-tiny",
               "--set", "task.name=reasoning-gym", *section, cwd=tmp_path)  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_other_tasks_refuse_a_set(tmp_path: Path) -> None:
    done = aha_here("data", "show", "countdown-tiny", "--set", "task.dataset=gcd", cwd=tmp_path)
    assert done.returncode == 2
    assert "task.dataset is 'gcd'; it goes with task.name 'reasoning-gym'" in done.stderr


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.split(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, module)

    class Absent:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.split(".")[0] == "reasoning_gym":
                raise ModuleNotFoundError(name, name="reasoning_gym")

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(UserError, match=r"pip install 'aha-zero\[gym\]'"):
        gym.known_sets()


@pytest.mark.slow
def test_the_list_has_every_set(tmp_path: Path) -> None:
    done = aha_here("tasks", "--gym", cwd=tmp_path)
    assert done.returncode == 0
    assert all(f"{name}: " in done.stdout for name in ALL)
