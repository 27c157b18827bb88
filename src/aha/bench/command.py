"""`aha bench`: which parts run, and where the figures go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from aha.bench import run
from aha.model.load import find_model
from aha.recipe import DEFAULT_RECIPE, load_recipe
from aha.runs import find_runs
from aha.train.checkpoint import latest_checkpoint
from aha.types import UserError

_RUNS = Path("runs")


def bench(
    json_path: Path | None, after: str | None, runs: int, full: bool, say: run.Say
) -> dict[str, Any]:
    """Run the benchmark, say what comes out, and write it to `json_path`."""
    if json_path is not None and not json_path.resolve().parent.is_dir():
        raise UserError(f"--json is {str(json_path)!r}; its folder does not exist.")
    if json_path is not None and json_path.is_dir():
        raise UserError(f"--json is {str(json_path)!r}, a folder; it must be a file.")
    run.require_trl()
    threads = torch.get_num_threads()
    trained = _trained(after, say)
    result: dict[str, Any] = {"machine": run.machine(threads)}
    machine = result["machine"]
    say(
        f"machine: {machine['processor']} ({machine['features']}, kernels {machine['kernels']}), "
        f"{threads} threads, {machine['matmul_gflops']:.0f} GFLOP/s in matrix products, "
        f"{machine['read_gb_per_s']:.0f} GB/s"
    )
    for when, model in (("before_rl", "aha-tiny"), ("after_rl", trained)):
        say(f"embedded model, {when.replace('_', ' ')}:")
        result[when] = run.small_model(model, threads, runs, say)
    say("shape of Qwen2.5-0.5B, 8 x 512 tokens:")
    result["large"] = run.large_shape(threads, result["machine"], say)
    if full:
        say("costs:")
        result["costs"] = run.costs(threads, say)
    result = {
        "step_ratio_before_rl": result["before_rl"]["step_ratio"]["median"],
        "step_ratio_after_rl": result["after_rl"]["step_ratio"]["median"],
        "rollout_ratio": min(
            result[when]["rollout_ratio"]["median"] for when in ("before_rl", "after_rl")
        ),
        "memory_ratio": result["large"]["memory_ratio"],
        **result,
    }
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        say(f"written: {json_path}")
    return result


def _trained(after: str | None, say: run.Say) -> str:
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
            say(f"after RL: {checkpoint}")
            return str(checkpoint)
    from aha.train.start import start_run

    say("after RL: no finished run of the default recipe in runs/, so one is trained first")
    return str(latest_checkpoint(start_run(load_recipe(DEFAULT_RECIPE), None).checkpoints))
