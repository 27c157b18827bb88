"""Pre-train the embedded model and write its card: `python -m aha.tiny.build --output DIR`.

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from aha.answers.equations import written_steps
from aha.model.llama import blocks_of
from aha.reasoning.reflection import reflection_count
from aha.rollout.base import SamplingSettings
from aha.rollout.engine import NativeEngine
from aha.sections import PromptSection
from aha.tasks import check_completion
from aha.tasks.countdown import Countdown
from aha.tasks.prompts import render
from aha.tiny import weights_path
from aha.tiny.traces import TINY_RANGES, TraceSettings, completion_text, prompt_text, tiny_tokenizer
from aha.types import Problem

_IGNORED = -100  # the label that cross_entropy skips
_CARD_PROBLEMS = 1_000
_CHECK = re.compile(r"= (\d+) , (yes|not (\d+)) \.")


@dataclass(frozen=True)
class Cycle:
    """One warm-up and cosine decay of the learning rate."""

    steps: int
    learning_rate: float


@dataclass(frozen=True)
class BuildSettings:
    """The settings of a build; the defaults made the shipped weights.

    96 % of the sums are true after the first cycle, 99 % after the two warm restarts.
    """

    seed: int = 0
    cycles: tuple[Cycle, ...] = (Cycle(2_000, 3e-3), Cycle(1_000, 1.5e-3), Cycle(1_000, 1.5e-3))
    batch_size: int = 192
    final_learning_rate: float = 1e-4
    warmup_steps: int = 100
    weight_decay: float = 0.1
    bucket_batches: int = 8
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


def batches(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerFast,
    settings: BuildSettings,
    first_step: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    """Batches from `first_step` on: token ids, labels and the divisor of the summed loss.

    Ids and labels are (rows, tokens), padded on the right; labels are of completions only. Traces
    of similar length share a batch, so little is padding. The divisor is the mean number of labels
    of the batches cut from the same sorted rows. The batch's own number would give tokens of short
    traces more weight, and teach the model to give up earlier than the traces do.
    """
    for bucket in itertools.count(first_step // settings.bucket_batches):
        rng = random.Random(f"{settings.seed}:{bucket}")
        rows = []
        for _ in range(settings.batch_size * settings.bucket_batches):
            columns = rng.choice(problems).columns
            nums, target = list(columns["nums"]), columns["target"]
            rng.shuffle(nums)
            prompt = tokenizer.encode(prompt_text(nums, target))
            trace = completion_text({"nums": nums, "target": target}, settings.traces, rng)
            ids = [*prompt, *tokenizer.encode(trace), tokenizer.eos_token_id]
            rows.append((ids, [*[_IGNORED] * len(prompt), *ids[len(prompt) :]]))
        rows.sort(key=lambda row: len(row[0]))
        trained = sum(label != _IGNORED for _, labels in rows for label in labels)
        starts = [i * settings.batch_size for i in range(settings.bucket_batches)]
        rng.shuffle(starts)
        for index, start in enumerate(starts):
            if bucket * settings.bucket_batches + index >= first_step:
                chosen = rows[start : start + settings.batch_size]
                input_ids = [torch.tensor(ids) for ids, _ in chosen]
                labels = [torch.tensor(labels) for _, labels in chosen]
                yield (
                    pad_sequence(input_ids, True, tokenizer.pad_token_id),
                    pad_sequence(labels, True, _IGNORED),
                    trained / settings.bucket_batches,
                )


def train(settings: BuildSettings, work_dir: Path) -> LlamaForCausalLM:
    """Train from the last checkpoint in `work_dir`, or from nothing, with the shipped config.

    Errors: SystemExit for a checkpoint of other settings.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    checkpoint, step = work_dir / "build.pt", 0
    torch.manual_seed(settings.seed)
    # Llama with biases is Qwen2's block. A folder of the type qwen2 would get another pre-tokenizer
    # from AutoTokenizer (transformers 5).
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(weights_path()))
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
    problems = list(Countdown().generate(TINY_RANGES, "train", settings.seed))
    print(f"{len(problems)} training problems; starting at step {step} of {settings.steps}")
    started, tokens = time.monotonic(), 0
    for input_ids, labels, divisor in batches(problems, tiny_tokenizer(), settings, step):
        if step >= settings.steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        # Right padding under causal attention changes no earlier token: no mask is needed.
        logits = model(input_ids=input_ids[:, :-1]).logits
        wanted = labels[:, 1:].flatten()  # labels that are -100 do not count
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum") / divisor
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        tokens += input_ids.numel()
        if step % 25 == 0:
            speed = f"{tokens / (time.monotonic() - started):,.0f} tokens/s"
            print(f"step {step}/{settings.steps}  loss {loss.item():.4f}  {speed}", flush=True)
        if step % settings.save_every == 0 or step == settings.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            staged = work_dir / "build.pt.tmp"
            torch.save({**state, "step": step, "settings": asdict(settings)}, staged)
            os.replace(staged, checkpoint)
    return model


def measure(folder: Path, problems: int) -> dict[str, float]:
    """The figures of the model in `folder`: one completion for each of the first held-out problems.

    Shares are 0 to 1, at temperature 1; lengths are in tokens.
    """
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    held_out = list(itertools.islice(Countdown().generate(TINY_RANGES, "test", seed=0), problems))
    compact = PromptSection(style="compact")
    prompts = [render(problem.columns, Countdown(), compact, tokenizer) for problem in held_out]
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


def card_text(record: Mapping[str, Any]) -> str:
    """The model card for a `figures.json`: the figures of `measure`, and `build`'s settings."""
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    cycles = record["build"]["cycles"]
    return template.format(
        **record,
        cycles=" and then ".join(f"{cycle['steps']:,}" for cycle in cycles),
        rates=" and ".join(f"{cycle['learning_rate']:g}" for cycle in cycles),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the embedded model.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--work-dir", type=Path, default=Path("build/tiny"), help="checkpoints")
    parser.add_argument("--seed", type=int, default=BuildSettings.seed)
    arguments = parser.parse_args()
    settings = BuildSettings(seed=arguments.seed)
    model = train(settings, arguments.work_dir)
    model.save_pretrained(arguments.output)
    tiny_tokenizer().save_pretrained(arguments.output)
    record = {**measure(arguments.output, _CARD_PROBLEMS), "build": asdict(settings)}
    recorded = json.dumps(record, indent=2) + "\n"
    (arguments.output / "figures.json").write_text(recorded, encoding="utf-8")
    (arguments.output / "README.md").write_text(card_text(record), encoding="utf-8")
    print(f"{arguments.output}: {record}")


if __name__ == "__main__":
    main()
