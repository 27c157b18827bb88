"""A step's record as lines for people: what the console's text and live view both show.

GRPO has no value function, so there is no value loss to show: the baseline is the group's mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Row = tuple[str, str]

_BEHAVIOURS = {
    "self_check": "self-check",
    "backtracking": "backtracking",
    "subgoals": "sub-goals",
    "backward_chaining": "working backwards",
}
_BARS = "▁▂▃▄▅▆▇█"


def rows(record: Record) -> list[Row]:
    """What the step was, each line with the name of its part."""
    return [
        ("policy", _policy(record)),
        ("reward", _total(record)),
        *(("", line) for line in reward_lines(record)),
        ("answers", _answers(record)),
        ("length", _length(record)),
        ("thinking", _thinking(record)),
        ("speed", _speed(record)),
        ("machine", _machine(record)),
    ]


def heading(record: Record, max_steps: int, left: str) -> str:
    """One line that says where the run is."""
    return (
        f"step {record['step']}/{max_steps}  epoch {record['epoch']:.2f}  "
        f"loss {_loss(record)}  learning rate {record['learning_rate']:.2e}  left {left}"
    )


def block(record: Record, max_steps: int, left: str) -> str:
    """The step as text, a heading and an indented line for each part."""
    lines = [f"  {name:9}{text}" for name, text in rows(record)]
    return "\n".join([heading(record, max_steps, left), *lines])


def reward_lines(record: Record) -> list[str]:
    """Each reward's mean, deviation, least and most."""
    names = [k.split("/")[1] for k in record if k.startswith("rewards/") and k.endswith("/mean")]
    width = max(map(len, names), default=0)
    return [
        f"{name:{width}}  {record[f'rewards/{name}/mean']:7.3f} "
        f"± {record[f'rewards/{name}/std']:.3f} "
        f"[{record[f'rewards/{name}/min']:.3f}, {record[f'rewards/{name}/max']:.3f}]"
        for name in names
    ]


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of bars, the last `width` of them, from their least to their most."""
    shown = list(values[-width:])
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[0] * len(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in shown)


def number(value: float | None, digits: int = 4) -> str:
    """A figure that may be unknown."""
    return "none" if value is None else f"{value:.{digits}f}"


def _loss(record: Record) -> str:
    """With significant digits: on the policy's own texts the loss is zero but for roundings."""
    return "none" if record["loss"] is None else f"{record['loss']:.3g}"


def _policy(record: Record) -> str:
    clipped = record["clip_ratio"]
    return (
        f"loss {_loss(record)}  KL {number(record['kl'])}  "
        f"entropy {number(record['entropy'])}  "
        f"clipped {'none' if clipped is None else f'{clipped:.1%}'}  "
        f"grad norm {number(record['grad_norm'])}"
    )


def _total(record: Record) -> str:
    return (
        f"total {number(record['reward'], 3)} combined, within a group ± "
        f"{record['reward_std']:.3f}; {record['frac_reward_zero_std']:.0%} of groups without signal"
    )


def _answers(record: Record) -> str:
    count = record["samples"]
    kept = round(record["format_rate"] * count)
    return (
        f"right {record['accuracy']:.1%} strict, {record['accuracy_lenient']:.1%} lenient; "
        f"format {record['format_rate']:.1%} ({kept}/{count})"
    )


def _length(record: Record) -> str:
    return (
        f"{record['completions/mean_length']:.1f} tokens on average "
        f"({record['completions/min_length']} to {record['completions/max_length']}), "
        f"{record['completions/clipped_ratio']:.1%} cut off"
    )


def _thinking(record: Record) -> str:
    shares = "  ".join(
        f"{label} {record[f'reasoning/{name}_rate']:.0%}" for name, label in _BEHAVIOURS.items()
    )
    return f"{record['reflection_rate']:.2f} reflections a response  {shares}"


def _speed(record: Record) -> str:
    return (
        f"step {record['time/step_s']:.2f} s (rollout {record['time/rollout_s']:.2f}, "
        f"reward {record['time/reward_s']:.2f}, train {record['time/train_s']:.2f})  "
        f"{record['time/samples_per_s']:,.1f} samples/s  "
        f"{record['time/tokens_per_s']:,.0f} tokens/s"
    )


def _machine(record: Record) -> str:
    gpu = record.get("machine/gpu_memory_gb")
    return (
        f"CPU {record['machine/cpu_percent']:.0f} %  RAM {record['machine/ram_gb']:.2f} GiB "
        f"(machine {record['machine/ram_percent']:.0f} %)"
        f"{'' if gpu is None else f'  GPU {gpu:.2f} GiB'}  "
        f"peak {record['memory/peak_gb']:.2f} GiB"
    )
