"""The console: a live view in a terminal, a block of text per logging step elsewhere.

GRPO has no value function, so there is no value loss to show: the baseline is the group's mean.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aha.observe import Observer
from aha.sections import LoggingSection
from aha.types import Group as Completions

Record = Mapping[str, Any]

_CURVES = (
    ("accuracy", "accuracy"),
    ("length", "completions/mean_length"),
    ("reflections", "reflection_rate"),
)
_CURVE_WIDTH = 60
_BEHAVIOURS = {
    "self_check": "self-check",
    "backtracking": "backtracking",
    "subgoals": "sub-goals",
    "backward_chaining": "working backwards",
}
_BARS = "▁▂▃▄▅▆▇█"


class ConsoleObserver(Observer):
    """Shows a step's policy terms, rewards, answers, lengths, behaviours, speed and load."""

    def __init__(
        self, console: Console, max_steps: int, done: int, settings: LoggingSection
    ) -> None:
        self._console = console
        self._max_steps = max_steps
        self._settings = settings
        self._first = done
        self._started = time.monotonic()
        self._past: dict[str, deque[float]] = {
            key: deque(maxlen=_CURVE_WIDTH) for _, key in _CURVES
        }
        live = settings.console == "live" or (settings.console == "auto" and console.is_terminal)
        self._live = Live(console=console, auto_refresh=False) if live else None

    def on_step(self, record: dict[str, Any], groups: Sequence[Completions]) -> None:
        for key, values in self._past.items():
            values.append(record[key])
        step = record["step"]
        per_step_s = (time.monotonic() - self._started) / max(1, step - self._first)
        left = timedelta(seconds=round(per_step_s * (self._max_steps - step)))
        heading = (
            f"step {step}/{self._max_steps}  epoch {record['epoch']:.2f}  loss {_loss(record)}  "
            f"learning rate {record['learning_rate']:.2e}  left {left}"
        )
        if self._live is not None:
            self._live.start()
            self._live.update(self._view(heading, record), refresh=True)
        elif step % self._settings.logging_steps == 0 or step in (1, self._max_steps):
            lines = [f"  {name:9}{text}" for name, text in rows(record)]
            self.note("\n".join([heading, *lines]))

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _view(self, heading: str, record: Record) -> RenderableType:
        bar = ProgressBar(total=self._max_steps, completed=record["step"], width=_CURVE_WIDTH)
        table = Table.grid(padding=(0, 2))
        table.add_row(Text("progress", style="bold"), bar)
        for name, text in rows(record):
            table.add_row(Text(name, style="bold"), Text(text))
        for name, key in _CURVES:
            curve = sparkline(list(self._past[key]), _CURVE_WIDTH)
            table.add_row(Text(name, style="bold"), Text(curve, style="cyan"))
        return Group(Text(heading), table)


def rows(record: Record) -> list[tuple[str, str]]:
    """A step's record as lines of text, each with its name; a reward's line has none."""
    clipped = record["clip_ratio"]
    shares = "  ".join(
        f"{label} {record[f'reasoning/{name}_rate']:.0%}" for name, label in _BEHAVIOURS.items()
    )
    well_formed = round(record["format_rate"] * record["samples"])
    gpu = record.get("machine/gpu_memory_gb")
    names = [k.split("/")[1] for k in record if k.startswith("rewards/") and k.endswith("/mean")]
    width = max(map(len, names), default=0)
    return [
        (
            "policy",
            f"loss {_loss(record)}  KL {_number(record['kl'])}  "
            f"entropy {_number(record['entropy'])}  "
            f"clipped {'none' if clipped is None else f'{clipped:.1%}'}  "
            f"grad norm {_number(record['grad_norm'])}",
        ),
        (
            "reward",
            f"total {_number(record['reward'], 3)} combined, within a group ± "
            f"{record['reward_std']:.3f}; {record['frac_reward_zero_std']:.0%} of groups without "
            "signal",
        ),
        *(
            (
                "",
                f"{name:{width}}  {record[f'rewards/{name}/mean']:7.3f} "
                f"± {record[f'rewards/{name}/std']:.3f} "
                f"[{record[f'rewards/{name}/min']:.3f}, {record[f'rewards/{name}/max']:.3f}]",
            )
            for name in names
        ),
        (
            "answers",
            f"right {record['accuracy']:.1%} strict, {record['accuracy_lenient']:.1%} lenient; "
            f"format {record['format_rate']:.1%} ({well_formed}/{record['samples']})",
        ),
        (
            "length",
            f"{record['completions/mean_length']:.1f} tokens on average "
            f"({record['completions/min_length']} to {record['completions/max_length']}), "
            f"{record['completions/clipped_ratio']:.1%} cut off",
        ),
        ("thinking", f"{record['reflection_rate']:.2f} reflections a response  {shares}"),
        (
            "speed",
            f"step {record['time/step_s']:.2f} s (rollout {record['time/rollout_s']:.2f}, "
            f"reward {record['time/reward_s']:.2f}, train {record['time/train_s']:.2f})  "
            f"{record['time/samples_per_s']:,.1f} samples/s  "
            f"{record['time/tokens_per_s']:,.0f} tokens/s",
        ),
        (
            "machine",
            f"CPU {record['machine/cpu_percent']:.0f} %  RAM {record['machine/ram_gb']:.2f} GiB "
            f"(machine {record['machine/ram_percent']:.0f} %)"
            f"{'' if gpu is None else f'  GPU {gpu:.2f} GiB'}  "
            f"peak {record['memory/peak_gb']:.2f} GiB",
        ),
    ]


def _loss(record: Record) -> str:
    # On the policy's own texts the loss is zero but for rounding: significant digits, not places.
    return "none" if record["loss"] is None else f"{record['loss']:.3g}"


def _number(value: float | None, digits: int = 4) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as a row of bars, from their least to their most."""
    shown = list(values[-width:])
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[0] * len(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / (high - low) * top)] for value in shown)
