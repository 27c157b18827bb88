"""Rollouts against Hugging Face's generate: `python benchmarks/rollout.py [--model NAME]`.

Same model, prompts, group size, limit and threads, in one process and in turn; tokens up to and
with the end token count, padding does not. Prints both speeds and the ratio, run by run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from aha.blocks.llama import blocks_of
from aha.recipe import load_recipe
from aha.rollout.native import NativeEngine
from aha.tasks.ask import ask
from aha.tasks.load import load_problems
from aha.train.policy import load_model, load_tokenizer
from aha.train.setup import sampling_settings

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="aha-tiny", help="model.name, or a checkpoint's folder")
    parser.add_argument("--prompts", type=int, default=16)
    arguments = parser.parse_args()
    recipe = load_recipe("countdown-tiny", [f"model.name={arguments.model}"])
    model, tokenizer = load_model(recipe.model), load_tokenizer(recipe.model)
    problems = load_problems(recipe.task, "train", arguments.prompts).problems
    prompts = ask(problems, recipe, tokenizer)
    group, settings = recipe.generation.num_generations, sampling_settings(recipe)
    engine = NativeEngine(model, tokenizer, blocks_of(model))

    def native(seed: int) -> int:
        groups = engine.generate(prompts, group, settings, seed)
        return sum(len(c.token_ids) for completions in groups for c in completions)

    def generate(seed: int) -> int:
        torch.manual_seed(seed)
        texts = [prompt.text for prompt in prompts]
        inputs: Any = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                max_new_tokens=settings.max_completion_length,
                num_return_sequences=group,
            )
        written = output[:, inputs["input_ids"].shape[1] :]
        ended = written == tokenizer.eos_token_id
        length = torch.where(ended.any(1), ended.int().argmax(1) + 1, written.shape[1])
        return int(length.sum())

    native(0), generate(0)
    ratios, speeds = [], {"native": [], "generate": []}
    for seed in range(1, RUNS + 1):
        measured = {}
        for name, action in (("native", native), ("generate", generate)):
            started = time.perf_counter()
            tokens = action(seed)
            measured[name] = tokens / (time.perf_counter() - started)
            speeds[name].append(measured[name])
        ratios.append(measured["native"] / measured["generate"])
    print(
        json.dumps(
            {
                "threads": torch.get_num_threads(),
                "rows": len(prompts) * group,
                "native_tokens_per_s": statistics.median(speeds["native"]),
                "generate_tokens_per_s": statistics.median(speeds["generate"]),
                "ratio": {
                    "median": statistics.median(ratios),
                    "low": min(ratios),
                    "high": max(ratios),
                },
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
