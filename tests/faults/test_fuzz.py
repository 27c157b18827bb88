"""Random recipes, answers, expressions and data files: a clear error or a result, never a crash."""

from __future__ import annotations

import copy
import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aha.answers.expression import ExpressionError, parse_expression
from aha.answers.numbers import parse_quantity
from aha.answers.tags import (
    answer_block,
    last_boxed,
    lenient_answer,
    strict_answer,
)
from aha.recipe import Recipe, dump_recipe, load_recipe, parse_recipe, shipped_recipes
from aha.rewards.score import rewards_of
from aha.tasks import load_problems
from aha.types import UserError

pytestmark = pytest.mark.slow

MANY = settings(max_examples=25_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 8, 10**30, 0.5, -0.5, 1e-300, 1e300, float("inf"), float("nan"),
    "", "x", "none", "1e-4", "../../etc/passwd", "\x00", "[bold]", "<script>", "a" * 10_000, [],
    [1], ["x"], [None], {}, {"x": 1}, {"name": "accuracy"}, [{"name": "accuracy"}],
    [{"name": "\n"}],
    "countdown", "gsm8k", "accuracy", "text", "grpo", "\u202e", "💥",
]  # fmt: skip


def paths(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    items: Any = ()
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        found += paths(value, (*prefix, key))
    return found


def mutate(recipe: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """One to three keys changed, removed, renamed or added, anywhere."""
    recipe = copy.deepcopy(recipe)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        found = paths(recipe)
        if not found:
            break
        *parents, last = dice.choice(found)
        node: Any = recipe
        for key in parents:
            node = node[key]
        action = dice.choice(["change", "change", "change", "remove", "rename", "add"])
        if action == "remove":
            node.pop(last)
        elif action == "rename" and isinstance(node, dict):
            node[dice.choice(["nope", "", "Name", 3, "train"])] = node.pop(last)
        elif action == "add" and isinstance(node, dict):
            node[dice.choice(["nope", "options", "model", "task"])] = dice.choice(VALUES)
        else:
            node[last] = dice.choice(VALUES)
    return recipe


def as_far_as_it_goes(recipe: Recipe) -> None:
    """What a run does with a recipe before any model is loaded."""
    rewards_of(recipe)
    if recipe.task.name == "countdown" and recipe.task.source is None:
        load_problems(recipe.task.model_copy(update={"num_train": 3}), "train", 3)
    load_recipe_again = parse_recipe(yaml.safe_load(dump_recipe(recipe)), "again")
    assert load_recipe_again == recipe


def test_two_thousand_mutated_recipes() -> None:
    dice, outcomes, messages = random.Random(3), {"runs": 0, "refused": 0}, list[str]()
    originals = [yaml.safe_load(text) for text in shipped_recipes().values()]
    for _ in range(2000):
        mutated = mutate(dice.choice(originals), dice)
        try:
            as_far_as_it_goes(parse_recipe(mutated, "mutated.yaml"))
            outcomes["runs"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            messages.append(str(error))
    assert all(0 < len(message) < 2000 for message in messages)
    assert min(outcomes.values()) > 200, outcomes


TAGS = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "{", "<reasoning>",
        "</reasoning>", "####", "\n", " ", "=", "\\frac{1}{2}", "1/0", "9" * 50]  # fmt: skip
PIECES = st.lists(st.one_of(st.sampled_from(TAGS), st.text(max_size=8)), max_size=25).map("".join)


@MANY
@given(PIECES)
def test_the_answer_grammar_reads_any_text(text: str) -> None:
    for read in (strict_answer, lenient_answer, answer_block, last_boxed):
        answer = read(text)
        assert answer is None or isinstance(answer, str)
    quantity = parse_quantity(text)
    assert quantity is None or isinstance(quantity.value, Fraction)


SYMBOLS = st.lists(
    st.one_of(
        st.sampled_from(list("+-*/() 0123456789.^\u00d7\u00f7\u2212=,eE_")), st.text(max_size=2)
    ),
    max_size=40,
).map("".join)


@MANY
@given(SYMBOLS)
def test_the_expression_parser_values_or_refuses_any_text(text: str) -> None:
    try:
        expression = parse_expression(text)
    except ExpressionError:
        return
    assert isinstance(expression.value, Fraction)


FILES = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=200).map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["question", "answer", "target", "nums", "x"]), inner)
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(
    max_examples=6000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    content=FILES,
    suffix=st.sampled_from(["jsonl", "json", "csv", "parquet"]),
    task=st.sampled_from(["gsm8k", "countdown", "math", "custom"]),
)
def test_data_files_of_any_content(content: bytes, suffix: str, task: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(content)
    section = load_recipe("countdown-tiny", [f"task.name={task}", f"task.source={path}"]).task
    try:
        problems = load_problems(section, "train", 10).problems
    except UserError:
        return
    assert all(problem.columns for problem in problems)
