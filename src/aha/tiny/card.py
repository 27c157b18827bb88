"""What the embedded model can do, measured, and the model card that says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from aha.model.llama import blocks_of
from aha.reasoning.reflection import reflection_count
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.sections import PromptSection
from aha.tasks import check_completion
from aha.tasks.countdown import Countdown, generate
from aha.tasks.prompts import render
from aha.tiny.traces import TINY_RANGES, TraceSettings

_SUM = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
_CHECK = re.compile(r"= (\d+) , (yes|not (\d+)) \.")
_PROMPT = PromptSection(style="compact")
_SETTINGS = SamplingSettings(max_completion_length=240, temperature=1.0)


@dataclass(frozen=True)
class CardFigures:
    """Shares of 0..1 on held-out problems at temperature 1; length in tokens."""

    problems: int
    accuracy: float
    sums_right: float
    checks_right: float
    mean_length: float
    waits: float


def measure(folder: Path, problems: int) -> CardFigures:
    """The figures of the model in `folder`: one completion for each of the first problems."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    held_out = list(islice(generate(TINY_RANGES, "test", seed=0), problems))
    prompts = [render(problem.columns, Countdown(), _PROMPT, tokenizer) for problem in held_out]
    groups = NativeEngine(model, tokenizer, blocks_of(model)).generate(
        prompts, 1, _SETTINGS, seed=0
    )
    completions = [group[0] for group in groups]
    triples = list(zip(held_out, prompts, completions, strict=True))
    sums = [right for c in completions for right in sums_right(c.text)]
    checks = [right for p, _, c in triples for right in checks_right(c.text, p.columns["target"])]
    return CardFigures(
        problems=len(held_out),
        accuracy=_share(check_completion(q.text, c.text, p.columns).strict for p, q, c in triples),
        sums_right=_share(sums),
        checks_right=_share(checks),
        mean_length=sum(len(c.token_ids) for c in completions) / len(completions),
        waits=sum(reflection_count(c.text) for c in completions) / len(completions),
    )


def sums_right(text: str) -> list[bool]:
    """For each sum that is written before the answer, whether it is true."""
    results = []
    for left, operator, right, value in _SUM.findall(text.split("</think>")[0]):
        a, b, c = int(left), int(right), int(value)
        truth = {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}
        results.append(truth[operator])
    return results


def checks_right(text: str, target: int) -> list[bool]:
    """For each "yes" or "not N" after a result, whether it is the right thing to say."""
    return [
        (verdict == "yes") == (int(value) == target) and (verdict == "yes" or int(named) == target)
        for value, verdict, named in _CHECK.findall(text.split("</think>")[0])
    ]


def _share(values: Iterable[bool]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def write_card(folder: Path, figures: CardFigures, settings: dict[str, Any]) -> None:
    """README.md and figures.json beside the weights."""
    text = json.dumps({**asdict(figures), "build": settings}, indent=2) + "\n"
    (folder / "figures.json").write_text(text, encoding="utf-8")
    traces = TraceSettings(**settings["traces"])
    (folder / "README.md").write_text(_card(figures, settings, traces), encoding="utf-8")


def _card(figures: CardFigures, settings: dict[str, Any], traces: TraceSettings) -> str:
    cycles = " and then ".join(f"{cycle['steps']:,}" for cycle in settings["cycles"])
    rates = " and ".join(f"{cycle['learning_rate']:g}" for cycle in settings["cycles"])
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# aha-tiny

A causal language model of 0.72 M parameters that does one thing: Countdown with three numbers
from 1 to 20 and a target from 1 to 100. It exists so that reinforcement learning for reasoning
can be tried, and tested, on any machine in minutes. It knows no language.

## What it was taught
Texts that a program wrote (`aha.tiny.traces`): try a random combination of the numbers, compare
the result with the target, and stop when they are equal. After a failed try the text stops all
the same with probability {traces.stop_after_failure:.0%} and answers with that wrong expression;
otherwise it says "Wait," and tries another. {traces.guided_share:.0%} of the tries are drawn from
the right ones, the rest blindly. So the words "Wait," and the habit of checking are taught, not
discovered.

## What only reinforcement learning teaches it
That going on pays. The base gives up early, as its texts do; GRPO with a reward for right
answers makes it go on, say "Wait," several times as often, and choose likelier combinations.
Nothing in the training data shows a preference for either.

## Measured
On {figures.problems} problems that no text was about, one completion each at temperature 1, on a
CPU in float32:

| | |
|---|---|
| solved (strict) | {figures.accuracy:.1%} |
| sums that are true | {figures.sums_right:.2%} |
| checks against the target that are right | {figures.checks_right:.2%} |
| length | {figures.mean_length:.1f} tokens |
| reflection phrases ("Wait,") | {figures.waits:.2f} a completion |

## Made by
`python -m aha.tiny.build --output DIR`: seed {settings["seed"]}, {cycles} steps of
{settings["batch_size"]} texts, AdamW with cosine decay from {rates} to
{settings["final_learning_rate"]:g}, loss on completions only. Llama architecture with biases,
hidden size 128, 4 layers, 4 heads (2 for keys and values), tied embeddings; one token per integer
0 to 199, per symbol and per word.
"""
