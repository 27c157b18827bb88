"""The findings: the tables in the docs are those of the measured runs; their figures by hand."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from aha.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "findings.py"))
FINDINGS = SCRIPT["DEFINITION"]["findings"]


@pytest.mark.parametrize("name", FINDINGS)
def test_the_docs_have_the_table_of_the_measured_runs(name: str) -> None:
    rows = SCRIPT["read"](ROOT / "benchmarks" / "findings" / f"{name}.csv")
    settings = FINDINGS[name]["settings"]
    assert SCRIPT["table"](rows, settings[0]) in (ROOT / "docs/findings.md").read_text("utf-8")
    assert {row.setting for row in rows} == {"before", *settings}
    assert all(len([r for r in rows if r.setting == setting]) >= 5 for setting in settings)


@pytest.mark.parametrize("name", SCRIPT["DEFINITION"]["settings"])
def test_every_setting_is_a_recipe(name: str) -> None:
    setting = SCRIPT["DEFINITION"]["settings"][name]
    load_recipe("countdown-tiny", setting.get("set", ()))
    assert set(setting) <= {"set", "after"}


def test_a_search_by_hand(tmp_path: Path) -> None:
    texts = [
        # Three tries, of which one repeats; the last one hits.
        ("1 + 1 = 2 , not 9 . Wait, 1 + 1 = 2 , not 9 . Wait, 4 + 5 = 9 , yes . </think> x", True),
        # One try, which is given as the answer and is wrong, with a false equation.
        ("4 + 4 = 9 , yes . </think> x", False),
        ("4 + 5 = 9 , yes . </think> x", True),
    ]
    lines = [json.dumps({"completion": text, "correct": right}) for text, right in texts]
    (tmp_path / "eval.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found: dict[str, Any] = SCRIPT["search"](tmp_path / "eval.jsonl")
    assert found["tries"] == pytest.approx(5 / 3, abs=1e-3)
    assert found["hit"] == pytest.approx(2 / 5)
    assert found["first_try"] == pytest.approx(1 / 3)
    assert found["repeated"] == pytest.approx(1 / 5)
    assert found["true"] == pytest.approx(4 / 5)


def test_a_table_by_hand() -> None:
    def row(setting: str, seed: int, accuracy: float, tokens: float) -> Any:
        return SCRIPT["Row"](
            setting, seed, 10, accuracy, tokens, 1.0, 0.1, 2.0, 0.3, 0.2, 0.0, 1.0, 5, 1.0, "m", "d"
        )

    rows = [
        row("a", 0, 0.5, 100),
        row("a", 1, 0.6, 100),
        row("b", 0, 0.6, 50),
        row("b", 1, 0.8, 70),
    ]
    lines = SCRIPT["table"](rows, "a").splitlines()
    # Differences of 10 and 20 points, mean 15, t = 3 with one degree of freedom: p = 0.205.
    assert re.search(r"\| b \| 2 \| 70\.0 %.*\| \+15\.0 .*p = 0\.2 \| 60 \| -40\.0 %", lines[-1])
