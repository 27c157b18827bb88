from __future__ import annotations

import json

from aha.report.pages import cost
from aha.report.run_data import load
from aha.runs import RunDirectory

NBSP = "\N{NO-BREAK SPACE}"


def test_the_cost_by_hand(run: RunDirectory) -> None:
    rows = {label: (value, note) for label, value, note in cost(load(run))}
    # Forty steps of 4 s (1 rollout, 0.25 reward, 2.5 train) and 1,000 tokens.
    assert rows["tokens written in training"] == ("40,000", "")
    assert rows["time in training steps"] == (
        f"2.7{NBSP}min",
        f"writing 25{NBSP}%, scoring 6{NBSP}%, learning 62{NBSP}%",
    )
    assert rows["tokens a second"][0] == "250"
    assert rows["peak memory"][0] == "0.500 GiB"
    assert "energy" not in rows


def test_energy_is_told_only_where_it_was_measured(run: RunDirectory) -> None:
    records = [{**record, "machine/energy_j": 90.0} for record in run.metrics()]
    run.metrics_file.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    rows = {label: value for label, value, _ in cost(load(run))}
    # 40 x 90 J = 3,600 J = 1 Wh.
    assert rows["energy"] == "1.00 Wh"
