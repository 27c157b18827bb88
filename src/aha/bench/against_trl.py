"""`aha bench`: the native engine beside TRL on this machine, part by part, in one JSON object."""

from __future__ import annotations

import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen2Config

from aha.bench.native_side import Ratio, rollout_speeds, seconds_per_token
from aha.bench.worker import in_turn
from aha.bench.workload import (
    SHAPES,
    Side,
    Spec,
    StepTimes,
    block_weights,
    decode_bytes,
    training_flops,
)
from aha.model.kernels.library import kernels
from aha.model.load import find_model
from aha.recipe import DEFAULT_RECIPE, load_recipe
from aha.runs import find_runs, processor
from aha.train.checkpoint import latest_checkpoint
from aha.types import UserError

_RUNS = Path("runs")
_SHAPE = "qwen2.5-0.5b"
_SHAPE_LIMIT = 512
_LENGTH_SHAPE = "qwen2.5-0.5b-4-layers"
# A step of the recipe word-problems-smollm2, and the rows of its decoding.
_WORDS_SHAPE, _WORDS_STEP, _WORDS_ROWS = "smollm2-135m", (10, 8, 75, 25), 32
# Products as training has them (tokens x inputs x outputs), and a square one.
_PRODUCTS = ((2048, 2048, 2048), (2048, 896, 4864), (2048, 4864, 896), (1024, 4096, 4096))
_LARGE_PRODUCT = (8192, 8192, 8192)  # what it takes to keep a GPU busy


def bench(json_path: Path | None, after: str | None, runs: int, full: bool) -> None:
    """Run the benchmark, print the results, and write them to `json_path`.

    `after`: a trained embedded model, a run or a checkpoint; default the latest finished run's.
    Errors: UserError for a path that cannot be written, or without TRL.
    """
    if json_path is not None and not json_path.resolve().parent.is_dir():
        raise UserError(f"--json is {str(json_path)!r}; its folder does not exist.")
    if json_path is not None and json_path.is_dir():
        raise UserError(f"--json is {str(json_path)!r}, a folder; it must be a file.")
    if importlib.util.find_spec("trl") is None:
        raise UserError(
            "aha bench compares with TRL, which is not installed: pip install 'aha-zero[trl]' with "
            "Python 3.11 or newer."
        )
    threads = torch.get_num_threads()
    trained = _trained(after)
    machine = machine_limits(threads)
    result: dict[str, Any] = {"machine": machine}
    print(
        f"machine: {machine['processor']} ({machine['features']}, kernels {machine['kernels']}), "
        f"{threads} threads, {machine['matmul_gflops']:.0f} GFLOP/s in matrix products, "
        f"{machine['read_gb_per_s']:.0f} GB/s"
    )
    for when, model in (("before_rl", "aha-tiny"), ("after_rl", trained)):
        print(f"embedded model, {when.replace('_', ' ')}:")
        result[when] = small_model(model, threads, runs)
    print("shape of Qwen2.5-0.5B, 8 x 512 tokens:")
    result["large"] = large_shape(threads, machine)
    print("shape of SmolLM2-135M, 10 x 8 completions of 25 tokens after prompts of 75:")
    result["word_problems"] = words = word_problems(threads, runs)
    if full:
        print("costs:")
        result["costs"] = costs(threads)
    before, trained_result = result["before_rl"], result["after_rl"]
    result = {
        "step_ratio_before_rl": before["step_ratio"]["median"],
        "step_ratio_after_rl": trained_result["step_ratio"]["median"],
        "rollout_ratio": min(x["rollout_ratio"]["median"] for x in (before, trained_result)),
        "memory_ratio": result["large"]["memory_ratio"],
        "shared_prompt_ratio": words["shared_prompt_ratio"]["median"],
        "train_share_of_peak_135m": words["train_share_of_peak"],
        "rollout_share_of_peak_135m": words["rollout_share_of_peak"],
        **result,
    }
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"written: {json_path}")


def _trained(after: str | None) -> str:
    """A trained embedded model: the given one, that of the latest finished run, or a new run's."""
    if after is not None:
        path = Path(after)
        model = str(latest_checkpoint(path / "checkpoints") or path)
        find_model(model)  # a wrong one would be found out after minutes
        return model
    for directory in find_runs(_RUNS):
        finished = "after" in directory.evaluation()
        checkpoint = latest_checkpoint(directory.checkpoints)
        if finished and checkpoint and directory.recipe().name == DEFAULT_RECIPE:
            print(f"after RL: {checkpoint}")
            return str(checkpoint)
    from aha.train.start import start_run

    print("after RL: no finished run of the default recipe in runs/, so one is trained first")
    return str(latest_checkpoint(start_run(load_recipe(DEFAULT_RECIPE), None).checkpoints))


def machine_limits(threads: int) -> dict[str, Any]:
    """This machine, and its peak arithmetic and memory speed."""
    return {
        "processor": processor(),
        "threads": threads,
        "torch": torch.__version__,
        "features": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels().path,
        "kernels_why": kernels().why,
        "matmul_gflops": matmul_peak() / 1e9,
        "read_gb_per_s": read_bandwidth() / 1e9,
    }


def matmul_peak(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the fastest of a few matrix products, the best of several runs."""
    best = 0.0
    for m, k, n in _PRODUCTS if device == "cpu" else (*_PRODUCTS, _LARGE_PRODUCT):
        a = torch.randn(m, k, device=device, dtype=dtype)
        b = torch.randn(k, n, device=device, dtype=dtype)
        seconds = _best_time(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        best = max(best, 2.0 * m * k * n / seconds)
    return best


def read_bandwidth(device: str = "cpu") -> float:
    """Bytes/s of summing 1 GiB, far more than any cache holds, the best of several runs."""
    x = torch.ones(2**28, device=device)
    return x.numel() * 4 / _best_time(lambda: x.sum(), device)


def _best_time(action: Callable[[], object], device: str) -> float:
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(8):
        wait()
        started = time.perf_counter()
        action()
        wait()
        times.append(time.perf_counter() - started)
    return min(times)


def small_model(model: str, threads: int, runs: int) -> dict[str, Any]:
    """Steps of 16 x 8 completions of at most 240 tokens on Countdown, against TRL's two ways."""
    sides: tuple[Side, ...] = ("native", "trl", "trl-continuous")
    specs = [Spec(side, model, 16, 8, 240, threads) for side in sides]
    results = dict(zip(sides, in_turn(specs, runs), strict=True))
    summaries = {side: _summary(steps) for side, steps in results.items()}
    best = min(sides[1:], key=lambda side: summaries[side]["step_s"])
    native_s, best_s = summaries["native"]["step_s"], summaries[best]["step_s"]
    ratio = Ratio.of(
        [step.step_s for step in results[best]], [step.step_s for step in results["native"]]
    )
    ceiling = _ceiling(model, results["native"], best_s)
    print(
        f"  step: {native_s:.2f} s against {best}'s {best_s:.2f} s: {ratio} times; "
        f"the arithmetic alone would allow {ceiling['ratio']:.0f} times"
    )
    ours, theirs = rollout_speeds(specs[0], runs)
    ours_median, theirs_median = statistics.median(ours), statistics.median(theirs)
    rollouts = Ratio.of(ours, theirs)
    print(
        f"  rollouts: {ours_median:,.0f} tokens/s against generate's {theirs_median:,.0f}: "
        f"{rollouts} times"
    )
    return {
        "trl_best": best,
        "step_ratio": asdict(ratio),
        "rollout_ratio": asdict(rollouts),
        "generate_tokens_per_s": theirs_median,
        "native_tokens_per_s": ours_median,
        "ceiling": ceiling,
        "sides": summaries,
    }


def large_shape(threads: int, limits: dict[str, Any]) -> dict[str, Any]:
    """One step of 8 x 512 tokens in the shape of Qwen2.5-0.5B, random weights, length forced.

    Gradient checkpointing is on for both, as in TRL's default; without it TRL needs more memory
    than many machines have. The native engine is measured without it as well.
    """
    spec = Spec("native", _SHAPE, 1, 8, _SHAPE_LIMIT, threads, checkpointing=True)
    measured = {}
    for name, variant in (
        ("native", spec),
        ("trl", replace(spec, side="trl")),
        ("native_without_checkpointing", replace(spec, checkpointing=False)),
    ):
        ((measured[name],),) = in_turn([variant], runs=1, warm_up=0)
        print(f"  {name}: {measured[name].step_s:.0f} s, {measured[name].peak_gb:.1f} GiB")
    config = Qwen2Config(**SHAPES[_SHAPE])
    plain = measured["native_without_checkpointing"]
    # The share of the matrix peak when the update takes one second.
    share = training_flops(config, 1, 8, 12, _SHAPE_LIMIT) / 1e9 / limits["matmul_gflops"]
    # Beside the decoding, before and after: a shared machine's bandwidth drifts.
    before = read_bandwidth()
    token_s = seconds_per_token(_SHAPE, 1, threads)
    bandwidth = (before + read_bandwidth()) / 2
    read = decode_bytes(config, 12 + 16)
    result = {
        "step_ratio": measured["trl"].step_s / measured["native"].step_s,
        "memory_ratio": measured["native"].peak_gb / measured["trl"].peak_gb,
        "training_share_of_matmul_peak": share / plain.train_s,
        "training_share_with_checkpointing": share / measured["native"].train_s,
        "decode_share_of_bandwidth": read / token_s / 1e9 / limits["read_gb_per_s"],
        "seconds_per_token_of_one_row": token_s,
        "read_gb_per_s_beside_it": bandwidth / 1e9,
        "sides": {name: asdict(times) for name, times in measured.items()},
    }
    print(
        f"  memory {result['memory_ratio']:.2f} of TRL's, step {result['step_ratio']:.1f} times "
        f"faster; training at {result['training_share_of_matmul_peak']:.0%} of the matrix peak, "
        f"decode at {result['decode_share_of_bandwidth']:.0%} of the bandwidth"
    )
    return result


def word_problems(threads: int, runs: int) -> dict[str, Any]:
    """A step of 10 prompts x 8 completions, beside one with a prompt for every completion.

    The shares are of the fastest matrix product, and in decoding of the slower of that and the
    memory, each measured beside it.
    """
    prompts, generations, prompt, limit = _WORDS_STEP
    together = Spec("native", _WORDS_SHAPE, prompts, generations, limit, threads, prompt=prompt)
    apart = replace(together, prompts=prompts * generations, generations=1)
    shared, alone = in_turn([together, apart], runs)
    ratio = Ratio.of([step.step_s for step in alone], [step.step_s for step in shared])
    config, peak = Qwen2Config(**SHAPES[_WORDS_SHAPE]), matmul_peak()
    flops = training_flops(config, prompts, generations, prompt, limit)
    train_share = flops / statistics.median(step.train_s for step in shared) / peak
    token_s = seconds_per_token(_WORDS_SHAPE, _WORDS_ROWS, threads)
    peak, weights = matmul_peak(), decode_bytes(config, 0)
    # A weight has 4 bytes and is read once for all rows, and multiplied and added once a row.
    least_s = max(weights / read_bandwidth(), 2 * weights / 4 * _WORDS_ROWS / peak)
    print(
        f"  step: {ratio} times as fast as with a prompt for each completion; training at "
        f"{train_share:.0%} of the matrix peak, decoding {_WORDS_ROWS} rows at "
        f"{least_s / token_s:.0%} of its limit"
    )
    return {
        "shared_prompt_ratio": asdict(ratio),
        "train_share_of_peak": train_share,
        "rollout_share_of_peak": least_s / token_s,
        "sides": {"shared": _summary(shared), "apart": _summary(alone)},
    }


def costs(threads: int) -> dict[str, Any]:
    """The cost of a native step by completion length, by rows and by model."""
    by_length = []
    for limit in (128, 256, 512, 1024, 2048, 4096):
        spec = Spec("native", _LENGTH_SHAPE, 1, 2, limit, threads)
        # A long step is its own warm-up.
        by_length.append({"limit": limit, **_native_step(spec, int(limit <= 512))})
    tokens = [row["tokens"] for row in by_length]
    seconds = [row["step_s"] for row in by_length]
    slope, intercept = statistics.linear_regression(tokens, seconds)
    fit = {
        "intercept_s": intercept,
        "seconds_per_1000_tokens": 1000 * slope,
        "r_squared": statistics.correlation(tokens, seconds) ** 2,
    }
    print(
        f"  by length 128 to 4096: {fit['seconds_per_1000_tokens']:.2f} s a 1,000 tokens, "
        f"R^2 of the straight line {fit['r_squared']:.4f}"
    )
    by_rows = []
    for prompts in (2, 8, 32, 64):
        spec = Spec("native", "aha-tiny", prompts, 8, 240, threads)
        by_rows.append({"rows": prompts * 8, **_native_step(spec)})
        print(f"  {prompts * 8} rows: {by_rows[-1]['tokens_per_s']:,.0f} tokens/s")
    by_model = []
    for model in ("aha-tiny", "qwen2.5-0.5b-4-layers", _SHAPE):
        token_s = {rows: seconds_per_token(model, rows, threads, 16) for rows in (1, 8, 32)}
        by_model.append({"model": model, "seconds_per_decoding_step_by_rows": token_s})
    return {
        "by_length": {"model": _LENGTH_SHAPE, "rows": 2, "steps": by_length, "fit": fit},
        "by_rows": by_rows,
        "by_model": by_model,
    }


def _native_step(spec: Spec, warm_up: int = 1) -> dict[str, Any]:
    ((times,),) = in_turn([spec], 1, warm_up)
    return {**asdict(times), "tokens_per_s": times.tokens / times.step_s}


def _ceiling(model: str, steps: Sequence[StepTimes], trl_s: float) -> dict[str, float]:
    """The step's arithmetic at the speed of the fastest matrix product, and TRL over that."""
    config: Any = AutoConfig.from_pretrained(find_model(model))
    tokens = statistics.fmean(step.tokens for step in steps)
    length = tokens / 128
    forward = 2.0 * tokens * (block_weights(config) + config.hidden_size * config.vocab_size)
    flops = forward + training_flops(config, 16, 8, 12, int(length))
    seconds = flops / matmul_peak()
    return {"arithmetic_s": seconds, "ratio": trl_s / seconds}


def _summary(steps: Sequence[StepTimes]) -> dict[str, Any]:
    names = ("step_s", "rollout_s", "train_s", "tokens", "peak_gb")
    summary: dict[str, Any] = {
        name: statistics.median(float(getattr(step, name)) for step in steps) for name in names
    }
    summary["tokens_per_s"] = summary["tokens"] / summary["step_s"]
    summary["steps"] = [asdict(step) for step in steps]
    return summary
