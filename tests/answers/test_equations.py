from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aha.answers.equations import written_steps
from aha.answers.expression import read_side

OPERATIONS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
SIGNS = {"+": "+", "-": "-\u2212", "*": "*\u00d7x", "/": "/\u00f7"}


def judged(text: str) -> list[tuple[str, bool]]:
    return [(text[step.start : step.end], step.true) for step in written_steps(text)]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("39 + 5 = 44, not 15", [("39 + 5 = 44", True)]),
        ("39 + 5 = 45 , not 15 .", [("39 + 5 = 45", False)]),
        ("3*4=12", [("3*4=12", True)]),
        ("so $1,200 / 4 = $300.", [("$1,200 / 4 = $300", True)]),
        ("he has 48/2 = <<48/2=24>>24 clips", [("48/2=24", True)]),
        ("12 \u00d7 5 = 60", [("12 \u00d7 5 = 60", True)]),
        ("12 x 5 = 60 eggs", [("12 x 5 = 60", True)]),
        ("10 \u2212 4 = 6, 8 \u00f7 2 = 4", [("10 \u2212 4 = 6", True), ("8 \u00f7 2 = 4", True)]),
        ("24 = 6 * 4", [("24 = 6 * 4", True)]),
        ("a = 3 * 4 = 12", [("3 * 4 = 12", True)]),
        ("(3 + 4) * 5 = 36 (wrong)", [("(3 + 4) * 5 = 36", False)]),
        ("2(3 + 4) = 14", [("2(3 + 4) = 14", True)]),
        ("-14 + 8 = -6", [("-14 + 8 = -6", True)]),
        ("- 3 + 4 = 7", [("3 + 4 = 7", True)]),
        ("1) 3 + 4 = 7", [("3 + 4 = 7", True)]),
        ("**3 + 4 = 8**", [("3 + 4 = 8", False)]),
        ("3 + 4 = 7 -> 7 + 1 = 8", [("3 + 4 = 7", True), ("7 + 1 = 8", True)]),
        ("2^3 + 1 = 9", [("2^3 + 1 = 9", True)]),
        ("5.5 + .5 = 6", [("5.5 + .5 = 6", True)]),
        (r"\frac{48}{2} \times 3 = 72", [(r"\frac{48}{2} \times 3 = 72", True)]),
        (r"\(3 \times 4 = 12 \text{ cm}\)", [(r"3 \times 4 = 12", True)]),
        (r"$3 \cdot 4 = 13$", [(r"$3 \cdot 4 = 13$", False)]),
    ],
)
def test_equations_are_found_and_judged(text: str, steps: list[tuple[str, bool]]) -> None:
    assert judged(text) == steps


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("10 / 3 = 3.33", True),
        ("2 / 3 = 0.67", True),  # rounded
        ("2 / 3 = 0.66", True),  # cut off
        ("2 / 3 = 0.68", False),
        ("2 / 3 = 0.666...", True),
        ("-2 / 3 = -0.67", True),
        ("10 / 3 = 3", False),  # no decimals: equal or not
        ("10 / 3 \u2248 3", True),
        ("0.1 + 0.2 = 0.3", True),
        ("20% of 50 = 10", True),
        ("20% * 50 = 12", False),
        ("1 / 4 = 25%", True),
        ("1 / 3 = 33.3%", True),
        ("20 / 50 * 100 = 40%", True),
        ("20 / 50 * 100 = 4%", False),
        ("100% - 20% = 80%", True),
    ],
)
def test_decimals_and_per_cents_hold_to_the_digits_written(text: str, true: bool) -> None:
    assert [verdict for _, verdict in judged(text)] == [true]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        # Going on from 12, and a rewritten sum: both are how people write chains.
        ("3 * 4 = 12 + 2 = 14", [("3 * 4 = 12", True), ("+ 2 = 14", True)]),
        ("2 * (3 + 4) = 6 + 8 = 14", [("2 * (3 + 4) = 6 + 8", True), ("= 14", True)]),
        ("3 * 4 = 12 + 3 = 14", [("3 * 4 = 12", True), ("+ 3 = 14", False)]),
        ("3 * 4 = 13 + 2 = 15", [("3 * 4 = 13 + 2", False), ("= 15", True)]),
        ("3 * 4 = 12 + 2", [("3 * 4 = 12 + 2", False)]),
        ("10 / 4 = 2.5 = 5 / 2", [("10 / 4 = 2.5", True), ("= 5 / 2", True)]),
    ],
)
def test_every_equality_of_a_chain_is_judged(text: str, steps: list[tuple[str, bool]]) -> None:
    assert judged(text) == steps


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 5",
        "5 = 5",
        "2x + 3 = 7",
        "3 + 4 = 7x",
        "x - 3 = 13",
        "16 eggs - 3 = 13",
        "half of 10 + 3 = 8",
        "5 * 2 = 3 million",
        "7 / 2 = 3 remainder 1",
        "7 / 2 = 3 R1",
        "7 / 2 = 3 1/2",
        "5 / 0 = 3",
        "5/0 = 3, so",
        "1 / (2 - 2) = 0",
        "9^99 = 3",
        "9^9^9 = 3",
        "2^(3) = 8",
        "6 / 2(1 + 2) = 9",
        "\u221a16 + 2 = 6",
        "4! / 2 = 12, 4 + 3! = 10",
        "10:30 + 2 = 12:30",
        "100 - 20% = 80",
        "1/3 * 100 = 0.333 * 100",
        "3 + 4 = ?",
        "3 + = 7",
        "(3 + 4 = 7",
        "3 + 4 <= 8, 3 + 4 != 8",
        "1234567890123456 + 1 = 5",
    ],
)
def test_what_cannot_be_judged_is_left_out(text: str) -> None:
    assert judged(text) == []


@st.composite
def equations(draw: st.DrawFn) -> tuple[str, Fraction, Fraction]:
    """An equation of one or two operations, its exact value, and the value that it writes."""
    numbers = [draw(st.integers(0, 2000)) for _ in range(3)]
    first, second = draw(st.sampled_from("+-*/")), draw(st.sampled_from("+-*/"))
    space = draw(st.sampled_from(["", " "]))

    def written(number: int) -> str:
        return f"{number:,}" if draw(st.booleans()) else str(number)

    def operator(sign: str) -> str:
        shown = draw(st.sampled_from(SIGNS[sign]))
        return f" {shown} " if shown == "x" else f"{space}{shown}{space}"

    assume(not (first == "/" and numbers[1] == 0))
    value = Fraction(OPERATIONS[first](Fraction(numbers[0]), numbers[1]))
    text = f"{written(numbers[0])}{operator(first)}{written(numbers[1])}"
    if draw(st.booleans()):
        assume(not (second == "/" and numbers[2] == 0))
        value = Fraction(OPERATIONS[second](value, numbers[2]))
        text = f"({text}){operator(second)}{written(numbers[2])}"
    decimals = 0 if value.denominator == 1 else draw(st.integers(1, 4))
    scaled = int(value * 10**decimals) + draw(st.sampled_from([0, 0, 0, 1, -1, 7]))
    shown = Fraction(scaled, 10**decimals)
    digits = f"{abs(scaled):0{decimals + 1}d}"
    number = digits if decimals == 0 else f"{digits[:-decimals]}.{digits[-decimals:]}"
    return f"{text}{space}={space}{'-' if scaled < 0 else ''}{number}", value, shown


@given(
    equations(), st.sampled_from(["{}", "so {}.", "We get {} eggs", "Wait, {} , yes .", "\n{}\n"])
)
def test_verdicts_agree_with_exact_fractions(
    equation: tuple[str, Fraction, Fraction], around: str
) -> None:
    text, value, shown = equation
    places = 10 ** len(text.partition(".")[2]) if "." in text.rpartition("=")[2] else 1
    size = abs(value) * places
    close = {size // 1, (size + Fraction(1, 2)) // 1} if places > 1 else {size}
    same_sign = value * shown >= 0
    assert judged(around.format(text)) == [(text, abs(shown) * places in close and same_sign)]


@given(st.integers(0, 99), st.sampled_from("+-*/"), st.integers(0, 99), st.integers(0, 200))
def test_the_short_way_and_the_long_way_agree(a: int, sign: str, b: int, c: int) -> None:
    # Before punctuation an equation is judged at once, before a word it is parsed.
    short, long = judged(f"{a} {sign} {b} = {c} , so"), judged(f"{a} {sign} {b} = {c} eggs")
    assert short == long
    assert len(short) == (0 if sign == "/" and b == 0 else 1)


@given(st.text(alphabet="0123456789+-*/=()., $%x^\n<>\u2248\\", max_size=60))
def test_steps_of_any_text_are_in_order_and_apart(text: str) -> None:
    end = 0
    for step in written_steps(text):
        assert end <= step.start < step.end <= len(text)
        end = step.end


def test_many_equations_of_both_kinds_keep_their_order() -> None:
    text = "3 + 4 = 7 , (3 + 4) * 2 = 14 , 7 * 2 = 15 . 1.5 * 2 = 3"
    assert judged(text) == [
        ("3 + 4 = 7", True),
        ("(3 + 4) * 2 = 14", True),
        ("7 * 2 = 15", False),
        ("1.5 * 2 = 3", True),
    ]


@pytest.mark.parametrize(
    "unit",
    ["1+1=", "= ", "1 + ", "(", "9^9^9 = ", r"\frac{", "**=", "1,000,=", "$=", "5% of 3 = ",
     "999999999999*", "1 = 1 + ", "0.5 = ", "\u2248"],
)  # fmt: skip
def test_long_hostile_texts_take_little_time(unit: str) -> None:
    text = (unit * 100_000)[:100_000] + "=1"
    start = time.process_time()
    written_steps(text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$1,200", Fraction(1200)),
        ("-3.50", Fraction(-7, 2)),
        ("40%", Fraction(2, 5)),
        ("2.5 * 4", Fraction(10)),
        ("2(3)", Fraction(6)),
        ("1.5^2", Fraction(9, 4)),
        ("3^0", Fraction(1)),
        ("1,20", None),
        ("2 ** 21", None),
        ("2 3", None),
        ("9" * 300, None),
    ],
)
def test_a_side_has_an_exact_value_or_none(text: str, value: Fraction | None) -> None:
    side = read_side(text)
    assert (None if side is None else side.value) == value
