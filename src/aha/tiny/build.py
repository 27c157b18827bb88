"""Pre-train the embedded model: `python -m aha.tiny.build --output DIR`.

Seeded and resumable: every batch is a function of (seed, step), so a build that was
interrupted goes on from its last checkpoint and ends with the same weights. It ends by
measuring what the model can do and writing that into its model card.

Left out: mixed precision and compilation. They save a third of the time and would make
the weights depend on the machine's compiler.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import PreTrainedModel

from aha.tasks.countdown import generate
from aha.tiny.card import measure, write_card
from aha.tiny.tokenizer import VOCABULARY_SIZE, build_tokenizer
from aha.tiny.traces import TINY_RANGES, TraceSettings, completion_text, prompt_text
from aha.types import Problem

_IGNORED = -100  # the label that cross_entropy skips
_CARD_PROBLEMS = 1_000


@dataclass(frozen=True)
class Cycle:
    """One warm-up and cosine decay of the learning rate."""

    steps: int
    learning_rate: float


@dataclass(frozen=True)
class BuildSettings:
    """What the build depends on; the defaults made the shipped weights.

    After the first cycle 96 % of the sums are true, after the two warm restarts 99 %
    (docs/log.md).
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


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, both (rows, tokens), and what to divide the summed loss by.

    The divisor is the mean number of completion tokens of the batches that were cut from
    the same sorted rows. Dividing by the batch's own would weigh a token of a short trace
    more than one of a long trace, and teach the model to give up earlier than the traces do.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    divisor: float


def new_model(seed: int) -> LlamaForCausalLM:
    """An untrained model of the embedded architecture: 0.72 M parameters.

    Llama with biases, which is Qwen2's block, because AutoTokenizer replaces the
    pre-tokenizer of any folder whose model type is qwen2 (transformers 5).
    """
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=320,
        max_position_embeddings=1024,
        attention_bias=True,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def learning_rate_at(step: int, settings: BuildSettings) -> float:
    """The rate of step 0, 1, ...: in each cycle a linear warm-up, then a cosine down to
    `final_learning_rate`."""
    cycle = settings.cycles[0]
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
    problems: list[Problem],
    tokenizer: PreTrainedTokenizerFast,
    settings: BuildSettings,
    first_step: int,
) -> Iterator[Batch]:
    """Batches from `first_step` on; traces of similar length share one, so little is padding."""
    for bucket in itertools.count(first_step // settings.bucket_batches):
        rng = random.Random(f"{settings.seed}:{bucket}")
        rows = [
            _encode(rng.choice(problems), tokenizer, settings.traces, rng)
            for _ in range(settings.batch_size * settings.bucket_batches)
        ]
        rows.sort(key=lambda row: len(row[0]))
        divisor = sum(len(ids) - prompt for ids, prompt in rows) / settings.bucket_batches
        starts = [i * settings.batch_size for i in range(settings.bucket_batches)]
        rng.shuffle(starts)
        for index, start in enumerate(starts):
            if bucket * settings.bucket_batches + index >= first_step:
                yield _pad(rows[start : start + settings.batch_size], divisor, tokenizer)


def _encode(
    problem: Problem,
    tokenizer: PreTrainedTokenizerFast,
    traces: TraceSettings,
    rng: random.Random,
) -> tuple[list[int], int]:
    """Token ids of prompt, trace and end token, and the length of the prompt."""
    nums = list(problem.columns["nums"])
    rng.shuffle(nums)
    columns = {"nums": nums, "target": problem.columns["target"]}
    prompt = tokenizer.encode(prompt_text(nums, columns["target"]))
    completion = tokenizer.encode(completion_text(columns, traces, rng))
    return [*prompt, *completion, tokenizer.eos_token_id], len(prompt)


def _pad(
    rows: Sequence[tuple[list[int], int]], divisor: float, tokenizer: PreTrainedTokenizerFast
) -> Batch:
    """Right-padded ids and labels; the loss is on completions only."""
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), _IGNORED)
    for row, (ids, prompt_length) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt_length : len(ids)] = torch.tensor(ids[prompt_length:])
    return Batch(input_ids, labels, divisor)


def train(settings: BuildSettings, work_dir: Path) -> LlamaForCausalLM:
    """Train from the last checkpoint in `work_dir`, or from nothing."""
    work_dir.mkdir(parents=True, exist_ok=True)
    model = new_model(settings.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=settings.weight_decay, fused=True
    )
    step = _load(work_dir, model, optimizer, settings)
    tokenizer = build_tokenizer()
    problems = list(generate(TINY_RANGES, "train", settings.seed))
    print(f"{len(problems)} training problems; starting at step {step} of {settings.steps}")
    started, tokens = time.monotonic(), 0
    for batch in batches(problems, tokenizer, settings, step):
        if step >= settings.steps:
            break
        loss = _train_step(model, optimizer, batch, learning_rate_at(step, settings))
        step += 1
        tokens += batch.input_ids.numel()
        if step % 25 == 0:
            speed = tokens / (time.monotonic() - started)
            print(
                f"step {step}/{settings.steps}  loss {loss:.4f}  {speed:,.0f} tokens/s", flush=True
            )
        if step % settings.save_every == 0 or step == settings.steps:
            _save(work_dir, model, optimizer, step, settings)
    return model


def _train_step(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    learning_rate: float,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    # Right padding under causal attention changes no earlier token: no mask is needed.
    logits = model(input_ids=batch.input_ids[:, :-1]).logits
    labels = batch.labels[:, 1:].flatten()
    total = functional.cross_entropy(
        logits.flatten(0, 1), labels, ignore_index=_IGNORED, reduction="sum"
    )
    loss = total / batch.divisor
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def _save(
    work_dir: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: BuildSettings,
) -> None:
    state = {
        "step": step,
        "settings": asdict(settings),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    temporary = work_dir / "build.pt.tmp"
    torch.save(state, temporary)
    os.replace(temporary, work_dir / "build.pt")


def _load(
    work_dir: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    settings: BuildSettings,
) -> int:
    path = work_dir / "build.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["settings"] != asdict(settings):
        raise SystemExit(f"{path} was built with other settings: {state['settings']}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the embedded model.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--work-dir", type=Path, default=Path("build/tiny"), help="checkpoints")
    parser.add_argument("--seed", type=int, default=BuildSettings.seed)
    arguments = parser.parse_args()
    settings = BuildSettings(seed=arguments.seed)
    model = train(settings, arguments.work_dir)
    model.save_pretrained(arguments.output)
    build_tokenizer().save_pretrained(arguments.output)
    figures = measure(arguments.output, _CARD_PROBLEMS)
    write_card(arguments.output, figures, asdict(settings))
    print(f"{arguments.output}: {figures}")


if __name__ == "__main__":
    main()
