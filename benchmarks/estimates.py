"""Print `aha doctor --estimate` beside published runs, and for many GPUs: tables of docs/.

It measures nothing, and needs no weights, network or GPU.

    python benchmarks/estimates.py
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.doctor.estimate import estimate
from aha.doctor.preview import public_shape
from aha.recipe import load_recipe

_VLLM = ("engine=trl", "trl={vllm: colocate}")


@dataclass(frozen=True)
class Published:
    """A run by others: settings, mean length (as it was, or assumed), seconds of a step."""

    name: str
    source: str
    recipe: str
    changes: tuple[str, ...]
    card: str
    gpus: int
    length: float
    step_s: tuple[float, float]


RUNS = (
    Published(
        "MiniR1's document, one prompt a step, 1,000 steps in 10 to 12 h",
        "the document that mini-r1-3b follows; its completions had 444 to 511 tokens",
        "mini-r1-3b",
        ("engine=trl", "grpo.prompts_per_step=1"),
        "a100-80",
        1,
        480,
        (36, 43),
    ),
    Published(
        "Mini-R1, 12 prompts a step, 450 steps in 6 h",
        "philschmid.de/mini-deepseek-r1; the length is an assumption",
        "mini-r1-3b",
        (*_VLLM, "grpo.prompts_per_step=12", "generation.max_completion_length=1024"),
        "h100",
        4,
        400,
        (45, 60),
    ),
    Published(
        "SimpleRL-Zoo 7B, 1,024 prompts a step, about 100 steps in 15 h",
        "github.com/hkust-nlp/simpleRL-reason; the length is an assumption",
        "r1-zero-7b",
        (
            *_VLLM, "grpo.prompts_per_step=1024", "generation.max_completion_length=8192",
            "generation.max_rows=256", "grpo.beta=0.0001", "grpo.num_iterations=1",
        ),
        "h100",
        16,
        700,
        (540, 540),
    ),
)  # fmt: skip


def many_gpus() -> None:
    """docs/clusters.md's table: one recipe on more and more cards."""
    changes = (
        *_VLLM, "grpo.prompts_per_step=1024", "generation.num_generations=8", "evaluation.n=0",
        "generation.max_completion_length=4096", "generation.max_rows=256",
    )  # fmt: skip
    recipe = load_recipe("r1-zero-7b", changes)
    shape = public_shape(recipe.model.name)
    assert shape is not None
    columns = "rollouts, s | training, s | optimizer and exchange, s | a step, s"
    print(f"| H100 | rows a GPU | {columns} | GPU-hours for 100 steps |")
    print("|---|---|---|---|---|---|---|")
    for gpus in (8, 64, 512):
        one = estimate(recipe, shape, "h100", 200, gpus, 1000)
        print(
            f"| {gpus} | {8192 // gpus} | {one.rollout_s:.0f} | {one.training_s:.1f} "
            f"| {one.other_s:.1f} | {one.step_s:.0f} | {gpus * one.step_s / 36:.0f} |"
        )


def main() -> None:
    print("| run | machine | published, s a step | estimate, s | published / estimate |")
    print("|---|---|---|---|---|")
    for run in RUNS:
        recipe = load_recipe(run.recipe, run.changes)
        shape = public_shape(recipe.model.name)
        assert shape is not None
        step = estimate(recipe, shape, run.card, 200, run.gpus, run.length).step_s
        low, high = run.step_s
        published = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        print(
            f"| {run.name} ({run.source}) | {run.gpus} x {run.card} | {published} | {step:.0f} "
            f"| {(low + high) / 2 / step:.1f} |"
        )
    print()
    many_gpus()


if __name__ == "__main__":
    main()
