from __future__ import annotations

import math

from aha.reasoning.compare import Estimate
from aha.report.run_data import NONE, between, duration, write

NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def test_shares_and_differences() -> None:
    assert write(0.1837, "percent") == f"18.4{NBSP}%"
    assert write(-0.123, "points") == f"{MINUS}12.3"
    assert write(0.05, "points") == "+5.0"
    assert write(-90.46, "difference") == f"{MINUS}90.5"
    assert write(3.0, "difference") == "+3.00"


def test_numbers_have_about_three_figures() -> None:
    written = [write(v, "number") for v in (0, 1234.6, 90.46, 1.234, 0.0512, 3.7e-5)]
    assert written == ["0", "1,235", "90.5", "1.23", "0.051", f"3.7e{MINUS}05"]


def test_what_is_not_known_is_a_dash() -> None:
    for form, value in (("percent", None), ("number", math.nan), ("points", math.inf)):
        assert write(value, form) == NONE
    assert between(None, "percent") == NONE


def test_an_interval_names_its_unit_once() -> None:
    assert between(Estimate(0.2, 0.1525, 0.22, 9), "percent") == f"15.2 to 22.0{NBSP}%"
    assert between(Estimate(2.0, -1.0, 5.0, 9), "difference") == f"{MINUS}1.00 to +5.00"


def test_durations() -> None:
    assert [duration(s) for s in (45.2, 252, 11160)] == [
        f"45{NBSP}s",
        f"4.2{NBSP}min",
        f"3.1{NBSP}h",
    ]
