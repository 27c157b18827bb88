from __future__ import annotations

import ast
import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aha.answers.expression import (
    ExpressionError,
    parse_equation,
    parse_expression,
    read_side,
)


@pytest.mark.parametrize(
    ("text", "value", "numbers"),
    [
        ("55 + 10", 65, (55, 10)),
        ("(1+2)/3", 1, (1, 2, 3)),
        ("1/3*3", 1, (1, 3, 3)),
        ("7 - 2 - 1", 4, (7, 2, 1)),
        ("8 / 4 / 2", 1, (8, 4, 2)),
        ("2 + 3 * 4", 14, (2, 3, 4)),
        ("-3 + 5", 2, (3, 5)),
        ("3 \u00d7 4 \u2212 6 \u00f7 2", 9, (3, 4, 6, 2)),
        (" ( ( 9 ) ) ", 9, (9,)),
        ("1/7", Fraction(1, 7), (1, 7)),
    ],
)
def test_values_are_exact(text: str, value: Fraction, numbers: tuple[int, ...]) -> None:
    expression = parse_expression(text)
    assert expression.value == value
    assert expression.numbers == numbers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "1.5*2",
        "2**3",
        "95**88**77",
        "7//2",
        "(1+2",
        "1+2)",
        "1+",
        "1 2",
        "2(3)",
        "1/0",
        "1/(2-2)",
        "x+1",
        "__import__('os')",
        "1e3",
        "+1",
        "1,000",
        "\u0663+1",  # an Arabic-Indic digit
        "\u00b2",  # superscript two, which str.isdigit accepts
        "9" * 13,
        "1+" * 300 + "1",
        "(" * 100 + "1" + ")" * 100,
        "-" * 100 + "1",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_expression(text)


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("65 = 55 + 10", "55 + 10"),
        ("55 + 10 = 65", "55 + 10"),
        ("55 + 10", "55 + 10"),
        ("-5 = 5 - 10", "5 - 10"),
        ("6 = 2 \u00d7 3", "2 \u00d7 3"),
        ("1 + 2 = 3 + 0", "1 + 2"),
    ],
)
def test_either_side_may_be_the_expression(text: str, side: str) -> None:
    assert parse_equation(text).expression == parse_expression(side)


@pytest.mark.parametrize(
    ("text", "numbers", "value", "claimed", "claimed_value"),
    [
        ("13 - 3 = 9", (13, 3), 10, "9", 9),
        ("65 = 55 + 10", (55, 10), 65, "65", 65),
        ("55 + 10", (55, 10), 65, "", None),
        ("55 + 10 = x", (55, 10), 65, "x", None),
    ],
)
def test_an_equation_has_an_expression_and_what_it_claims(
    text: str, numbers: tuple[int, ...], value: int, claimed: str, claimed_value: int | None
) -> None:
    equation = parse_equation(text)
    assert equation.expression.numbers == numbers
    assert equation.expression.value == value
    assert (equation.claimed, equation.claimed_value) == (claimed, claimed_value)


@pytest.mark.parametrize("text", ["x + 3 = 5", "1.5 * 2 = 3", "1 + 2 = 3 = 3", ""])
def test_other_equations_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse_equation(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 \\times 3 \\div 4", Fraction(3, 2)),
        ("\uff13\uff0b\uff14", Fraction(7)),
        ("1,000^2", Fraction(1_000_000)),
        ("2(3 + 4)(5)", Fraction(70)),
        ("12$", Fraction(12)),
        ("5$5", None),
        ("2 (3)", None),
        ("6/2(1 + 2)", None),
        ("2^3^2", None),
        ("2^21", None),
        ("1234567890123 + 1", None),
    ],
)
def test_a_side_in_prose_is_read_or_refused(text: str, value: Fraction | None) -> None:
    side = read_side(text)
    assert (None if side is None else side.value) == value


_LEAVES = st.integers(min_value=0, max_value=99).map(str)
_EXPRESSIONS = st.recursive(
    _LEAVES,
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    ),
    max_leaves=8,
)


def _oracle(node: ast.expr) -> Fraction:
    """Python's own parser, walked with exact arithmetic."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    assert isinstance(node, ast.BinOp)
    left, right = _oracle(node.left), _oracle(node.right)
    operators = {
        ast.Add: lambda: left + right,
        ast.Sub: lambda: left - right,
        ast.Mult: lambda: left * right,
        ast.Div: lambda: left / right,
    }
    return operators[type(node.op)]()


@given(_EXPRESSIONS)
def test_agrees_with_pythons_grammar(text: str) -> None:
    try:
        expected = _oracle(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError):
            parse_expression(text)
        return
    assert parse_expression(text).value == expected


@given(st.text(alphabet="0123456789+-*/() .=", max_size=60) | st.text(max_size=60))
def test_any_text_is_a_value_or_an_expression_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        parse_expression(text)
