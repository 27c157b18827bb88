"""Measure the native engine on one GPU: `make bench-gpu`, at most 8 minutes, one JSON file.

It needs no network: weights are random, in the shapes of Qwen2.5 0.5B, 1.5B and 3B, and every
completion has the same length. For each shape that fits it measures decoding by number of rows
(tokens/s, share of the memory bandwidth), a training step (share of the matrix peak), peak memory
and logprob_gap. Then a step of one shape with each `optimizer.state`, in the memory of a smaller
card; 8bit needs bitsandbytes.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import torch

from aha.bench.against_trl import matmul_peak, read_bandwidth
from aha.bench.native_side import NativeSide
from aha.bench.workload import SHAPES, Spec, decode_bytes, training_flops
from aha.rollout.base import SamplingSettings

PROMPTS, GENERATIONS, LIMIT = 8, 8, 512
DECODED = 224  # tokens; with the prompt they fill one size of the cache
SECONDS = 8 * 60
SHAPES_MEASURED = ["qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b"]
STATES = ("device", "cpu", "8bit")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("bench-gpu.json"))
    parser.add_argument("--device", default="cuda", help="cpu only tests the command, slowly")
    parser.add_argument("--shapes", nargs="+", default=SHAPES_MEASURED, choices=list(SHAPES))
    parser.add_argument("--states-shape", default="qwen2.5-1.5b", choices=list(SHAPES))
    parser.add_argument("--states-gib", type=float, default=24.0)
    parser.add_argument("--limit", type=int, default=LIMIT, help="tokens of every completion")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("bench-gpu: PyTorch sees no GPU")
    started, device = time.perf_counter(), arguments.device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "dtype": str(dtype),
        "matmul_tflops": matmul_peak(device, dtype) / 1e12,
        "read_gb_per_s": read_bandwidth(device) / 1e9,
        "shapes": {},
    }
    for shape in arguments.shapes:
        if time.perf_counter() - started > 0.6 * SECONDS:
            result["shapes"][shape] = "left out: no time"
            continue
        try:
            result["shapes"][shape] = measure(shape, arguments.limit, device, dtype, result)
        except torch.OutOfMemoryError:
            result["shapes"][shape] = "left out: no memory"
        print(shape, json.dumps(result["shapes"][shape]), flush=True)
        # Written after each shape, so that a stopped run keeps its results.
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    shape = arguments.states_shape
    result["optimizer_states"] = {"shape": shape, "gib": arguments.states_gib}
    for state, gib in (("device", None), *((state, arguments.states_gib) for state in STATES)):
        if state == "8bit" and importlib.util.find_spec("bitsandbytes") is None:
            found: Any = "left out: bitsandbytes is not installed"
        else:
            found = optimizer_state(shape, arguments.limit, device, dtype, state, gib)
        name = state if gib else f"{state}, all memory"
        result["optimizer_states"][name] = found
        print(name, json.dumps(found), flush=True)
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {arguments.json} after {time.perf_counter() - started:.0f} s")


def measure(
    shape: str, limit: int, device: str, dtype: torch.dtype, peaks: dict[str, Any]
) -> dict[str, Any]:
    """Measure one shape: decoding at several numbers of rows, and two whole steps."""
    spec = Spec("native", shape, PROMPTS, GENERATIONS, limit, torch.get_num_threads())
    cast = dtype if device == "cuda" else None
    side = NativeSide(spec, device, cast)
    decode = {}
    for rows in (1, 8, 64, 256):
        seconds = decoding_step(side, rows, device, min(DECODED, limit))
        cached = rows * (12 + DECODED / 2)
        read = decode_bytes(side.model.config, cached, torch.finfo(dtype).bits // 8)
        decode[rows] = {
            "tokens_per_s": rows / seconds,
            "share_of_bandwidth": read / seconds / 1e9 / peaks["read_gb_per_s"],
        }
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    side.step(1)
    times = side.step(2)
    flops = training_flops(side.model.config, PROMPTS, GENERATIONS, 12, limit)
    return {
        "decode_by_rows": decode,
        "step_s": times.step_s,
        "rollout_s": times.rollout_s,
        "train_s": times.train_s,
        "rollout_tokens_per_s": times.tokens / times.rollout_s,
        "training_share_of_peak": flops / times.train_s / 1e12 / peaks["matmul_tflops"],
        "peak_gb": times.peak_gb,
        "logprob_gap": times.logprob_gap,
        "tokens_per_microbatch": times.tokens_per_microbatch,
    }


def optimizer_state(
    shape: str, limit: int, device: str, dtype: torch.dtype, state: str, gib: float | None
) -> dict[str, Any] | str:
    """The second step of a shape with its optimizer's state in one place, in so much memory."""
    spec = Spec(
        "native", shape, PROMPTS, GENERATIONS, limit, torch.get_num_threads(),
        checkpointing=True, state=state,
    )  # fmt: skip
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        whole = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(1.0 if gib is None else min(1.0, gib / whole))
    try:
        side = NativeSide(spec, device, dtype if device == "cuda" else None)
        side.step(1)
        times = side.step(2)
    except torch.OutOfMemoryError:
        return "does not fit"
    tokens = times.tokens_per_microbatch
    return {
        "step_s": times.step_s, "train_s": times.train_s, "peak_gb": times.peak_gb,
        "tokens_per_microbatch": tokens,
    }  # fmt: skip


def decoding_step(side: NativeSide, rows: int, device: str, tokens: int) -> float:
    """Seconds of a step of `rows` rows, without prefill and the capture of graphs."""
    times = {}
    for limit in (1 + tokens // 7, 1 + tokens):
        settings = SamplingSettings(limit, ignore_end=True)
        best = float("inf")
        for _ in range(2):
            started = time.perf_counter()
            side.engine.generate(side.prompts[:1], rows, settings, 0)
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        times[limit] = best
    (short, fast), (long, slow) = sorted(times.items())
    return (slow - fast) / (long - short)


if __name__ == "__main__":
    main()
