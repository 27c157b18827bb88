"""Pre-train an embedded model and write its card: `python -m aha.tiny.build --output DIR`.

Seeded and resumable: every batch is a function of (seed, step), so an interrupted build goes on
from its last checkpoint and ends with the same weights. Then the model is measured, and its card
(`card.md`) filled in. Left out: mixed precision and compilation. They save a third of the time,
but the weights would depend on the machine's compiler.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from aha.answers.equations import written_steps
from aha.grpo.batches import Row, micro_batches
from aha.grpo.logprobs import LogprobModel
from aha.model.free_memory import keep_freed_memory
from aha.model.llama import blocks_of
from aha.reasoning.reflection import reflection_count
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.sections import PromptSection
from aha.tasks import check_completion
from aha.tasks.prompts import render
from aha.tiny import TINY_NAME, weights_path
from aha.tiny.traces import (
    LESSONS,
    Lesson,
    TraceSettings,
    completion_text,
    prompt_text,
    shuffled,
    tiny_tokenizer,
)
from aha.types import Problem
from aha.visible import package_yaml

_TOKENS = 4096  # of a microbatch
_CARD_PROBLEMS = 1_000
_CHECK = re.compile(r"= (\d+) , (yes|not (\d+)) \.")


@dataclass(frozen=True)
class Cycle:
    """One warm-up and cosine decay of the learning rate."""

    steps: int
    learning_rate: float


@dataclass(frozen=True)
class BuildSettings:
    """The settings of a build."""

    seed: int
    cycles: tuple[Cycle, ...]
    batch_size: int = 192
    final_learning_rate: float = 1e-4
    warmup_steps: int = 100
    weight_decay: float = 0.1
    save_every: int = 250
    traces: TraceSettings = field(default_factory=TraceSettings)

    @property
    def steps(self) -> int:
        return sum(cycle.steps for cycle in self.cycles)


def learning_rate_at(step: int, settings: BuildSettings) -> float:
    """Each cycle is a linear warm-up and then a cosine down to `final_learning_rate`."""
    for cycle in settings.cycles:
        if step < cycle.steps:
            break
        step -= cycle.steps
    if step < settings.warmup_steps:
        return cycle.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, cycle.steps - settings.warmup_steps)
    span = cycle.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))


def rows_of(
    lesson: Lesson,
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerFast,
    settings: BuildSettings,
    step: int,
) -> list[Row]:
    """The texts of a step as prompts and completions, a function of the seed and the step."""
    rng, rows = random.Random(f"{settings.seed}:{step}"), []
    for index in range(settings.batch_size):
        columns = shuffled(rng.choice(problems).columns, rng)
        prompt = tokenizer.encode(prompt_text(lesson, columns))
        trace = tokenizer.encode(completion_text(lesson, columns, settings.traces, rng))
        rows.append(Row(index, tuple(prompt), (*trace, int(tokenizer.eos_token_id))))
    return rows


def train(lesson: Lesson, settings: BuildSettings, work_dir: Path) -> LlamaForCausalLM:
    """Train from the last checkpoint in `work_dir`, or from nothing, with the shipped config.

    Errors: SystemExit for a checkpoint of other settings.
    """
    keep_freed_memory()
    work_dir.mkdir(parents=True, exist_ok=True)
    checkpoint, step = work_dir / "build.pt", 0
    torch.manual_seed(settings.seed)
    # Llama with biases is Qwen2's block. A folder of the type qwen2 would get another pre-tokenizer
    # from AutoTokenizer (transformers 5).
    config, tokenizer = LlamaConfig.from_pretrained(weights_path()), tiny_tokenizer(lesson.words)
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=settings.weight_decay, fused=True
    )
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != asdict(settings):
            raise SystemExit(f"{checkpoint} was built with other settings: {state['settings']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    problems = list(lesson.task.generate(lesson.ranges, "train", settings.seed))
    print(f"{len(problems)} training problems; starting at step {step} of {settings.steps}")
    policy = LogprobModel(model, blocks_of(model))
    started, tokens = time.monotonic(), 0
    while step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        rows, total = rows_of(lesson, problems, tokenizer, settings, step), 0.0
        trained = sum(len(row.completion_ids) for row in rows)
        for batch in micro_batches(rows, _TOKENS, model.device):
            logprobs_N, _ = policy.head(policy.hidden(batch), batch.targets_N, 1.0)
            loss = -logprobs_N.sum() / trained
            loss.backward()
            total += loss.item()
        policy.gather_gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        policy.clear_gradients()
        step += 1
        tokens += sum(row.tokens for row in rows)
        if step % 25 == 0:
            speed = f"{tokens / (time.monotonic() - started):,.0f} tokens/s"
            print(f"step {step}/{settings.steps}  loss {total:.4f}  {speed}", flush=True)
        if step % settings.save_every == 0 or step == settings.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            staged = work_dir / "build.pt.tmp"
            torch.save({**state, "step": step, "settings": asdict(settings)}, staged)
            os.replace(staged, checkpoint)
    return model


def measure(lesson: Lesson, folder: Path, problems: int) -> dict[str, float]:
    """The figures of the model in `folder`: one completion for each of the first held-out problems.

    Shares are 0 to 1, at temperature 1; lengths are in tokens.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    task = lesson.task
    held_out = list(itertools.islice(task.generate(lesson.ranges, "test", seed=0), problems))
    compact = PromptSection(style="compact")
    prompts = [render(problem.columns, task, compact, tokenizer) for problem in held_out]
    sampling = SamplingSettings(max_completion_length=240, temperature=1.0)
    engine = NativeEngine(model, tokenizer, blocks_of(model))
    completions = [group[0] for group in engine.generate(prompts, 1, sampling, seed=0)]
    solved, sums, checks = [], [], []
    for problem, prompt, completion in zip(held_out, prompts, completions, strict=True):
        solved.append(check_completion(prompt.text, completion.text, problem.columns).strict)
        thoughts, target = completion.text.split("</think>")[0], problem.columns["target"]
        sums += [step.true for step in written_steps(thoughts)]
        for value, verdict, named in _CHECK.findall(thoughts):
            right = (verdict == "yes") == (int(value) == target)
            checks.append(right and (verdict == "yes" or int(named) == target))
    return {
        "problems": len(held_out),
        "accuracy": fmean(solved),
        "sums_right": fmean(sums),
        "checks_right": fmean(checks),
        "mean_length": fmean(len(completion.token_ids) for completion in completions),
        "waits": fmean(reflection_count(completion.text) for completion in completions),
    }


def card_text(name: str, record: Mapping[str, Any]) -> str:
    """A model's card for its `figures.json`: the figures of `measure`, and `build`'s settings."""
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    words = package_yaml("aha.tiny", "cards.yaml")[name]
    cycles = record["build"]["cycles"]
    return template.format(
        **record,
        **words,
        name=name,
        cycles=" and then ".join(f"{cycle['steps']:,}" for cycle in cycles),
        rates=" and ".join(f"{cycle['learning_rate']:g}" for cycle in cycles),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train an embedded model.")
    parser.add_argument("--model", choices=list(LESSONS), default=TINY_NAME)
    parser.add_argument("--output", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--work-dir", type=Path, default=Path("build/tiny"), help="checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lesson = LESSONS[arguments.model]
    cycles = tuple(Cycle(*cycle) for cycle in lesson.cycles)
    settings = BuildSettings(arguments.seed, cycles, traces=lesson.traces)
    model = train(lesson, settings, arguments.work_dir)
    model.save_pretrained(arguments.output)
    tiny_tokenizer(lesson.words).save_pretrained(arguments.output)
    record = {**measure(lesson, arguments.output, _CARD_PROBLEMS), "build": asdict(settings)}
    recorded = json.dumps(record, indent=2) + "\n"
    (arguments.output / "figures.json").write_text(recorded, encoding="utf-8")
    (arguments.output / "README.md").write_text(
        card_text(arguments.model, record), encoding="utf-8"
    )
    print(f"{arguments.output}: {record}")


if __name__ == "__main__":
    main()
