from __future__ import annotations

from aha.report.curves import phase_table, phase_windows


def test_windows_by_hand() -> None:
    assert phase_windows(150) == [(0, 15), (30, 45), (68, 83), (105, 120), (135, 150)]
    assert phase_windows(1) == [(0, 1)] * 5


def test_means_of_the_phases_and_what_is_not_known() -> None:
    metrics = [
        {"step": step, "reward": float(step), "entropy": None if step > 2 else 0.5, "kl": None}
        for step in range(1, 21)
    ]
    phases, found = phase_table(metrics)
    # Twenty steps: windows of two, centred on 5, 10 and 15 between the ends.
    assert [(first, last) for _, first, last in phases] == [
        (1, 2),
        (5, 6),
        (10, 11),
        (15, 16),
        (19, 20),
    ]
    rows = {label: means for label, _, means in found}
    assert rows["reward"] == [1.5, 5.5, 10.5, 15.5, 19.5]
    assert rows["entropy, nats a token"] == [0.5, None, None, None, None]
    assert "KL to the start, nats a token" not in rows
    assert "accuracy, strict" not in rows


def test_every_reward_has_a_row() -> None:
    metrics = [{"step": 1, "reward": 1.0, "rewards/a/mean": 0.5, "rewards/a/std": 0.1}]
    assert [label for label, _, _ in phase_table(metrics)[1]] == ["reward", "reward a, unweighted"]
