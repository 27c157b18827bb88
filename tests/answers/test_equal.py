from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from aha.answers import workers as workers_module
from aha.answers.equal import MathVerifier, Pair, fast_outcome
from aha.answers.numbers import parse_quantity
from aha.rewards.call import TimeLimit, time_limit
from aha.types import RunFailure


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("72", 72), ("1,234,567", 1_234_567), ("$72.50", Fraction(145, 2)), ("-3", -3),
        ("\u22123", -3), ("3 1/2", Fraction(7, 2)),
        ("-3 1/2", Fraction(-7, 2)), (".5", Fraction(1, 2)),
        ("\\frac{3}{4}", Fraction(3, 4)), ("-\\dfrac34", Fraction(-3, 4)), ("x = 5", 5),
        ("18.", 18), ("$x = 5$", 5),
        ("5 miles per hour", 5), ("5cm", 5), ("90^\\circ", 90), ("007", 7), ("\\text{ 5 } cm", 5),
        ("1{,}000", None), ("1,23", None), ("2x", None), ("2 pi", None), ("4 million", None),
        ("3 or 4", None), ("5 5", None), ("1/0", None), ("1e5", 100_000),
        ("2.5e-3", Fraction(1, 400)),
        ("18 000", 18_000), ("1 234 567.5", Fraction(2_469_135, 2)), ("18 00", None),
        ("0.1\\overline{6}", Fraction(1, 6)), ("5\u20ac", 5), ("12 cm^2", 12), ("60 T-shirts", 60),
        ("Total cost: $18", 18), ("9 * 2 = 18", 18), ("9 * 2 = 19", None), ("4:30", None),
        ("", None), ("-", None),
        ("60% of 240", None), ("9" * 101, None), ("1.2.3", None), ("\u00bd", None),
    ],
)  # fmt: skip
def test_numbers_are_exact_or_none(text: str, value: Fraction | int | None) -> None:
    quantity = parse_quantity(text)
    assert (None if quantity is None else quantity.value) == value


def test_units_are_read() -> None:
    quantity = parse_quantity("40 percent")
    assert quantity is not None
    assert quantity.unit == "%"


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("72", "72.0", "equal"),
        ("72", "73", "different"),
        ("5 \\text{ cm}", "5 inches", "different"),
        ("5 \\text{ cm}", "5", "equal"),
        ("40\\%", "40", "equal"),
        ("40\\%", "0.4", "equal"),
        ("40\\%", "4000", "different"),
        ("5", "500%", "different"),
        ("5", "5%", "equal"),
        ("$5", "5%", "different"),
        ("$5", "5 cents", "different"),
        ("$5", "5 dollars", "equal"),
        ("90^\\circ", "90 degrees", "equal"),
        ("12 cm", "12 cm^2", "different"),
        ("12 cm^2", "12 \\text{ cm}^{2}", "equal"),
        ("12 \\text{ cm}^2", "12", "equal"),
        ("$5", "5\u20ac", "different"),
        ("\u20ac5", "5 euros", "equal"),
        ("4210_5", "4210_3", "different"),
        ("4210_5", "4210_{5}", "equal"),
        ("11", "11_2", "different"),
        ("72", "71=72", "different"),
        ("72", "x>=72", "different"),
        ("72", "x+1=72", "different"),
        ("5", "-x=5", "different"),
        ("5", "\\text{total cost} = 5", "equal"),
        ("72", "72 is wrong", "different"),
        ("72", "72 tenths", "different"),
        ("72", "72\\text{ million}", "different"),
        ("5", "5ab", "different"),
        ("5", "5 factorial", "different"),
        ("72", "**72**", "equal"),
        ("7 2", "72", None),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\dfrac{\\pi}{2})", "equal"),
        ("x+1", "1+x", None),
        ("72", "it must be seventy-two or so", "different"),
        ("72", "\\frac{144}{\\sqrt{4}}", None),
        ("72", "", "different"),
        ("", "72", "no_gold"),
        ("x", "y" * 3_000, "different"),
    ],
)
def test_fast_paths_decide_or_pass_on(gold: str, answer: str, outcome: str | None) -> None:
    assert fast_outcome(gold, answer) == outcome


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier(workers=2)


def test_a_batch_comes_back_in_order(verifier: MathVerifier) -> None:
    pairs = [Pair("x+1", f"{i}+x") for i in range(20)]
    outcomes = verifier.equal_many(pairs)
    assert outcomes == ["equal" if i == 1 else "different" for i in range(20)]
    assert verifier.equal_many(pairs[::-1]) == outcomes[::-1]


def test_a_comparison_that_does_not_end_is_killed_and_the_rest_goes_on() -> None:
    verifier = MathVerifier(workers=1)
    hostile = Pair("7", "9^{9^{9^{9}}}")
    outcomes = verifier.equal_many([Pair("x+1", "1+x"), hostile, Pair("y+2", "2+y")])
    assert outcomes == ["equal", "different", "equal"]
    assert list(verifier.killed) == [hostile]
    verifier.close()
    assert verifier.equal("z+3", "3+z") == "equal"
    verifier.close()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, TimeLimit, OSError])
def test_verdicts_after_an_interruption_belong_to_their_pairs(
    stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = MathVerifier(workers=2)
    right, wrong = Pair("z+3", "3+z"), Pair("z+3", "4+z")
    assert verifier.equal_many([Pair("x+1", "1+x"), Pair("y+1", "1+y")]) == ["equal"] * 2

    def interrupted(*_: object, **__: object) -> list[int]:
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(workers_module, "wait", interrupted)
        with pytest.raises(stop):
            verifier.equal_many([Pair("x+1", "2+x"), Pair("y+1", "2+y")])
    assert verifier.equal_many([right, right]) == ["equal"] * 2
    assert verifier.equal_many([wrong, right]) == ["different", "equal"]
    verifier.close()


def test_a_time_limit_leaves_no_answer_for_the_next_pair() -> None:
    verifier = MathVerifier(workers=1)
    assert verifier.equal("x+1", "1+x") == "equal"
    hostile = [Pair("7", f"9^{{9^{{9^{{{n}}}}}}}") for n in range(7, 10)]
    with pytest.raises(TimeLimit), time_limit(0.2):
        verifier.equal_many(hostile)
    assert len(verifier.killed) == 1
    assert verifier.equal_many([Pair("z+3", "4+z"), Pair("z+3", "3+z")]) == ["different", "equal"]
    verifier.close()


def test_a_worker_that_did_not_start_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = MathVerifier(workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(RunFailure, match="did not start"):
            verifier.equal("x+1", "1+x")
    assert verifier.equal("x+1", "1+x") == "equal"
    verifier.close()


def test_it_works_off_the_main_thread(verifier: MathVerifier) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda i=i: results.append(verifier.equal(f"a+{i}", f"{i}+a")))
        for i in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["equal"] * 4


def test_a_gold_that_cannot_be_parsed_is_said(verifier: MathVerifier) -> None:
    assert verifier.equal("\\begin{", "x") == "no_gold"


DATA = Path(__file__).parents[1] / "data"


def rewritten(gold: str) -> list[str]:
    """Other ways to write a MATH answer that mean the same."""
    forms = [f" {gold} ", f"${gold}$", gold.replace("\\frac", "\\dfrac")]
    simple = re.fullmatch(r"\\frac\{(\d+)\}\{(\d+)\}", gold)
    if simple:
        forms.append(f"{simple[1]}/{simple[2]}")
    if gold.endswith("^\\circ"):
        forms += [gold.removesuffix("^\\circ"), gold.replace("^\\circ", "^{\\circ}")]
    if re.fullmatch(r"\d+", gold):
        forms += [f"{gold}.0", f"{int(gold):,}"]
    if re.match(r"[(\[]", gold):
        forms.append(gold.replace(",", " , "))
    return forms


@pytest.mark.parametrize("name", ["math500.jsonl", "aime24.jsonl"])
def test_every_gold_equals_its_other_forms(name: str, verifier: MathVerifier) -> None:
    rows = [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]
    pairs = [Pair(row["answer"], form) for row in rows for form in rewritten(row["answer"])]
    wrong = [
        pair
        for pair, outcome in zip(pairs, verifier.equal_many(pairs), strict=True)
        if outcome != "equal"
    ]
    assert not wrong
