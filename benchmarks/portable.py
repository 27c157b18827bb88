"""Compare rollouts with Hugging Face's generate, on each kernel path of this processor.

    python benchmarks/portable.py --json portable.json [--after RUN]

Each path runs in its own process, native engine and generate in turn. There are two models: the
embedded one (16 x 8 completions of at most 240 tokens), and random weights in the shape of
SmolLM2-135M (32 rows of 32 tokens). With --after, the embedded model of that run is a third.

Ratios are medians of pairs, with the lowest and the highest. `gflops` is the speed of the path's
products of 32 rows with large weights. `operations` has the small operations of training, forward
and backward on 2,048 tokens, at both models' widths: PyTorch's time divided by the kernel's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from aha.bench.native_side import Ratio, rollout_speeds
from aha.bench.workload import Spec
from aha.model import ops
from aha.model.kernels import calls
from aha.model.kernels.library import kernels, runnable_paths
from aha.runs import processor, usable_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the list there")
    parser.add_argument("--after", help="a trained embedded model: a checkpoint's folder")
    parser.add_argument("--runs", type=int, default=5, help="counted pairs")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--here", action="store_true", help="only the path of this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.runs, arguments.threads, arguments.after)))
        return
    found = []
    for path in [*runnable_paths(), "off"]:
        done = subprocess.run(
            [sys.executable, __file__, "--here", *sys.argv[1:]],
            env={**os.environ, "AHA_KERNELS": path},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(", ".join(f"{key} {shown(value)}" for key, value in found[-1].items()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(runs: int, threads: int, after: str | None) -> dict[str, Any]:
    """Measure the kernel path of this process."""
    torch.set_num_threads(threads)
    models = {"tiny": Spec("native", "aha-tiny", 16, 8, 240, threads)}
    if after:
        models["tiny_after"] = Spec("native", after, 16, 8, 240, threads)
    models["m135"] = Spec("native", "smollm2-135m", 1, 32, 32, threads)
    result: dict[str, Any] = {
        "path": kernels().path,
        "processor": processor(),
        "features": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "gflops": product_gflops(),
    }
    for name, spec in models.items():
        result |= figures(name, *rollout_speeds(spec, runs))
    if kernels().path != "off":
        result["operations"] = operations()
    return result


def figures(name: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    ratio = Ratio.of(ours, theirs)
    return {
        f"{name}_tokens_per_s": statistics.median(ours),
        f"{name}_generate_tokens_per_s": statistics.median(theirs),
        f"{name}_ratio_to_generate": ratio.median,
        f"{name}_ratio_low": ratio.low,
        f"{name}_ratio_high": ratio.high,
    }


def product_gflops(rows: int = 32, inputs: int = 576, outputs: int = 3072) -> float:
    """The best speed of several products whose weights are too large for a cache."""
    x, weights = torch.randn(rows, inputs), torch.randn(16, outputs, inputs)

    def product(weight: torch.Tensor) -> torch.Tensor:
        if kernels().path == "off":
            return torch.nn.functional.linear(x, weight)
        return calls.linear(x, weight, None, outputs, packed=False)

    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        for weight in weights:
            product(weight)
        best = min(best, time.perf_counter() - started)
    return 2.0 * rows * inputs * outputs * len(weights) / best / 1e9


def operations() -> dict[str, float]:
    """PyTorch's time divided by the kernels', forward and backward together."""
    ratios = {}
    for hidden, inner, heads, width in ((128, 320, 6, 32), (576, 1536, 12, 64)):
        x = torch.randn(2048, hidden, requires_grad=True)
        weight = torch.randn(hidden, requires_grad=True)
        gate_up = torch.randn(2048, 2 * inner, requires_grad=True)
        query = torch.randn(2048, heads, width, requires_grad=True)
        cos, sin = torch.randn(2048, 1, width), torch.randn(2048, 1, width)
        actions = {
            "rms_norm": lambda x=x, weight=weight: ops.rms_norm(x, weight, 1e-6),
            "swiglu": lambda x=gate_up: ops.swiglu(x),
            "rotate": lambda x=query, cos=cos, sin=sin: ops.rotate(x, cos, sin),
        }
        for name, action in actions.items():
            grad = torch.ones_like(action())
            times: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(30):
                for compiled, spent in times.items():
                    with mock.patch.object(calls, "usable", lambda *_, on=compiled: on):
                        started = time.perf_counter()
                        action().backward(grad)
                        spent.append(time.perf_counter() - started)
            medians = {on: statistics.median(spent) for on, spent in times.items()}
            ratios[f"{name}_{hidden}"] = medians[False] / medians[True]
    return ratios


def shown(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
