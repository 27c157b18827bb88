"""Print which settings fit into which memory, as `aha doctor` predicts: docs/doctor.md's table.

It predicts from published configurations and measures nothing. It needs no weights, network or GPU.

    python benchmarks/fits.py --device cuda
"""

from __future__ import annotations

import argparse

from aha.doctor.advice import Option, advise
from aha.doctor.preview import GPU_BEFORE, PUBLIC, Prompts, Subject, process_bytes, public_shape
from aha.recipe import load_recipe
from aha.train.memory import Place

MEMORIES = (8, 16, 24, 48, 80)
PROMPT_TOKENS = 256
_SMALLER = {"train.tokens_per_microbatch", "generation.max_rows", "train.gradient_checkpointing"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="gsm8k-r1-1.5b")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--memory", type=float, nargs="+", default=MEMORIES, metavar="GIB")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    print("| model | " + " | ".join(f"{gib:g} GiB" for gib in arguments.memory) + " |")
    print("|---|" + "---|" * len(arguments.memory))
    for name in PUBLIC:
        changes = [*arguments.changes, f"model.name={name}"]
        cells = [cell(arguments.recipe, changes, arguments.device, x) for x in arguments.memory]
        print(f"| {name.removeprefix('Qwen/')} | " + " | ".join(cells) + " |")


def cell(recipe_name: str, changes: list[str], device: str, gib: float) -> str:
    """The setting that `aha doctor` recommends, with its peak in GiB."""
    recipe = load_recipe(recipe_name, changes)
    shape = public_shape(recipe.model.name)
    assert shape is not None
    before = GPU_BEFORE if device == "cuda" else process_bytes(recipe)
    place = Place(device, int(gib * 2**30), before)
    advice = advise(Subject(recipe, shape, place, Prompts(PROMPT_TOKENS, assumed=True)))
    return "no" if advice.recommended is None else label(advice.recommended)


def label(option: Option) -> str:
    keys = {setting.partition("=")[0] for setting in option.settings}
    kind = "all weights"
    if "model.quantization" in keys:
        kind = "LoRA on nf4"
    elif "lora" in keys:
        kind = "LoRA"
    elif "optimizer.state" in keys:
        kind = "all weights, " + (
            "8-bit state" if "8bit" in str(option.settings) else "state on the CPU"
        )
    smaller = "*" if _SMALLER & keys else ""
    tight = ", tight" if option.fit == "tight" else ""
    return f"{kind}{smaller}, {option.peak / 2**30:.1f}{tight}"


if __name__ == "__main__":
    main()
