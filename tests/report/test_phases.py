from __future__ import annotations

from aha.report.phases import phase_table, windows


def test_windows_by_hand() -> None:
    assert windows(150) == [(0, 15), (30, 45), (68, 83), (105, 120), (135, 150)]
    assert windows(1) == [(0, 1)] * 5


def test_means_of_the_phases_and_what_is_not_known() -> None:
    metrics = [
        {"step": step, "reward": float(step), "entropy": None if step > 2 else 0.5, "kl": None}
        for step in range(1, 21)
    ]
    table = phase_table(metrics)
    # Twenty steps: windows of two, centred on 5, 10 and 15 between the ends.
    assert [(p.first, p.last) for p in table.phases] == [
        (1, 2),
        (5, 6),
        (10, 11),
        (15, 16),
        (19, 20),
    ]
    rows = {row.label: row.means for row in table.rows}
    assert rows["reward"] == (1.5, 5.5, 10.5, 15.5, 19.5)
    assert rows["entropy, nats a token"] == (0.5, None, None, None, None)
    assert "KL to the start, nats a token" not in rows
    assert "accuracy, strict" not in rows


def test_every_reward_has_a_row() -> None:
    metrics = [{"step": 1, "reward": 1.0, "rewards/a/mean": 0.5, "rewards/a/std": 0.1}]
    assert [row.label for row in phase_table(metrics).rows] == ["reward", "reward a, unweighted"]
