"""Whole runs on a tiny untrained model: files, records, resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from aha.doctor.preview import describe
from aha.model.kernels.library import kernels
from aha.recipe import Recipe, load_recipe, shipped_recipes
from aha.rollout.cuda import BlocksDecoder
from aha.rollout.engine import NativeEngine
from aha.rollout.hf import Decoder
from aha.runs import RunDirectory
from aha.train.loop import score_groups
from aha.train.start import resume_run, start_run
from begun_run import begun_run
from stopped_run import stopped_run

RECORD_KEYS = {
    "step", "epoch", "loss", "learning_rate", "grad_norm", "reward", "reward_std",
    "frac_reward_zero_std", "completions/mean_length", "completions/min_length",
    "completions/max_length", "completions/right_length_p10", "completions/right_length_p90",
    "completions/clipped_ratio", "kl", "entropy", "clip_ratio",
    "reflection_rate", "format_rate", "accuracy", "accuracy_lenient", "logprob_gap", "tokens",
    "trained_rows", "groups", "tokens_per_microbatch", "tokens_wasted", "skipped", "sick_rows",
    "time/rollout_s", "time/reward_s", "time/train_s", "time/step_s", "time/record_s",
    "time/samples_per_s", "time/tokens_per_s", "samples", "memory/peak_gb",
    "machine/cpu_percent", "machine/ram_gb", "machine/ram_percent",
    "reasoning/self_check_rate", "reasoning/backtracking_rate", "reasoning/subgoals_rate",
    "reasoning/backward_chaining_rate", "reasoning/backtracks", "reasoning/corrected_rate",
    "reasoning/steps", "reasoning/steps_true",
}  # fmt: skip


@pytest.fixture
def byte_model_folder(
    tmp_path: Path,
    random_model: Callable[..., PreTrainedModel],
    byte_tokenizer: PreTrainedTokenizerFast,
) -> str:
    folder = tmp_path / "byte-model"
    model = random_model(vocab_size=len(byte_tokenizer), max_position_embeddings=4096)
    model.save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return str(folder)


def small(name: str, model_folder: str, *changes: str) -> Recipe:
    return load_recipe(
        name,
        [
            f"model.name={model_folder}",
            "train.max_steps=2",
            "train.save_steps=1",
            "grpo.prompts_per_step=3",
            "generation.num_generations=4",
            "generation.max_completion_length=40",
            "evaluation.n=4",
            "logging.samples_steps=2",
            # An untrained model never scores; a reward that varies makes it learn something.
            "rewards=[{name: accuracy}, {name: format}, "
            "{name: length_penalty, options: {start: 0.0}}]",
            *changes,
        ],
    )


def weights(run: RunDirectory, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / f"step-{step:06d}" / "model.safetensors")


ROWS = {"countdown": "countdown", "gsm8k": "gsm8k", "math": "math500"}


def on_a_tiny_model(name: str, folder: str) -> Recipe:
    """A shipped recipe with its own prompts, rewards and objective, on real rows, made small."""
    task = load_recipe(name).task.name
    data = Path(__file__).parents[1] / "data"
    # A task without rows generates its problems.
    source = data / f"{ROWS[task]}.jsonl" if task in ROWS else "null"
    return load_recipe(
        name,
        [
            f"model.name={folder}",
            f"task.source={source}",
            "task.problems=[]",
            "evaluation.at_least=null",
            "train.max_steps=2",
            "grpo.prompts_per_step=2",
            "generation.num_generations=4",
            "generation.max_completion_length=24",
            "optimizer.warmup_ratio=0",
            "evaluation.n=2",
        ],
    )


REAL_RECIPES = [name for name in shipped_recipes() if name != "countdown-tiny"]


@pytest.mark.parametrize("name", REAL_RECIPES)
def test_every_recipe_dry_runs_and_trains_two_steps_on_real_rows(
    name: str, byte_model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = on_a_tiny_model(name, byte_model_folder)
    text = describe(recipe)
    prefill = recipe.prompt.prefill.splitlines()[-1] if recipe.prompt.prefill else "<|assistant|>"
    assert f"{prefill}\n" in text
    # An untrained model earns nothing; noise in place of the rewards makes it take real steps.
    monkeypatch.setattr("aha.train.loop.score_groups", noisy)
    run = start_run(recipe, tmp_path / "run")
    records = run.metrics()
    assert [record["trained_rows"] for record in records] == [8, 8]
    assert {f"rewards/{reward.name}/mean" for reward in recipe.rewards} <= set(records[0])
    before = load_file(Path(byte_model_folder) / "model.safetensors")
    after = weights(run, 2)
    assert any(not torch.equal(before[key], after[key]) for key in after)


def noisy(rewards: Any, groups: Any) -> Any:
    scored = score_groups(rewards, groups)
    return [
        replace(g, scores=tuple(replace(s, reward=s.reward + i) for i, s in enumerate(g.scores)))
        for g in scored
    ]


def test_the_default_recipe_trains_two_steps(model_folder: str, tmp_path: Path) -> None:
    run = start_run(small("countdown-tiny", model_folder), tmp_path / "run")
    records = run.metrics()
    assert [record["step"] for record in records] == [1, 2]
    assert any(record["trained_rows"] > 0 for record in records)


def test_a_run_directory_holds_what_it_promises(model_folder: str, tmp_path: Path) -> None:
    run = start_run(small("countdown-tiny", model_folder), tmp_path / "run")
    files = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "samples.jsonl",
        "samples/step_00001.txt",
        "samples/step_00002.txt",
        "eval.json",
        "eval-before.jsonl",
        "eval-after.jsonl",
        "report.html",
        "checkpoints/step-000001/model.safetensors",
        "checkpoints/step-000002/model.safetensors",
    } <= files
    assert any(name.startswith("events/events.out.tfevents") for name in files)
    for record in run.metrics():
        rewards = {key for key in record if key.startswith("rewards/")}
        assert set(record) - rewards == RECORD_KEYS
        assert {f"rewards/{n}/{s}" for n in ("accuracy", "format", "length_penalty")
                for s in ("mean", "std", "min", "max")} == rewards  # fmt: skip
        assert record["logprob_gap"] < 1e-4
    summary = json.loads((run.path / "eval.json").read_text())
    assert set(summary) == {"before", "after"}
    assert summary["after"]["n"] == 4
    sample = run.read_lines("samples.jsonl")[0]
    first = sample["completions"][0]
    assert first["reward"] == pytest.approx(sum(first["weighted"].values()))
    assert sum(c["advantage"] for c in sample["completions"]) == pytest.approx(0, abs=1e-4)
    AutoModelForCausalLM.from_pretrained(run.checkpoints / "step-000002")


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in record.items() if not k.startswith(("time/", "memory/", "machine/"))}
        for record in records
    ]


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    "change",
    [
        "grpo.beta=0.0", "grpo.beta=0.05", "optimizer.state=8bit",
        "grpo={prompts_per_step: 2, entropy_coef: 0.01, use_adaptive_entropy: true, "
        "entropy_target: 3.0}",
    ],
)  # fmt: skip
def test_an_interrupted_run_resumes_as_if_never_stopped(
    change: str, model_folder: str, tmp_path: Path
) -> None:
    recipe = small(
        "countdown-tiny",
        model_folder,
        "train.max_steps=5",
        "train.save_steps=2",
        change,
    )
    whole = start_run(recipe, tmp_path / "whole")

    assert whole.environment()["decoding"]["path"] == kernels().path

    stopped_run(recipe, tmp_path / "parts", 3)
    # Step 3 was recorded, but the last checkpoint is of step 2.
    parts = resume_run(tmp_path / "parts")
    assert comparable(parts.metrics()) == comparable(whole.metrics())
    assert parts.read_lines("samples.jsonl") == whole.read_lines("samples.jsonl")
    assert parts.evaluation() == whole.evaluation()
    expected, got = weights(whole, 5), weights(parts, 5)
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_a_resumed_run_keeps_to_its_kernels(model_folder: str, tmp_path: Path) -> None:
    if kernels().path == "off":
        pytest.skip("there are no kernels here")
    stopped_run(small("countdown-tiny", model_folder, "train.max_steps=3"), tmp_path / "run", 2)
    environment = tmp_path / "run" / "environment.json"
    facts = json.loads(environment.read_text())
    facts["decoding"] = {"path": "off", "why": "a test"}
    environment.write_text(json.dumps(facts))
    decoders = []
    new_decoder = NativeEngine._new_decoder

    def spy(self: NativeEngine, rows: int, longest: int) -> Decoder:
        decoders.append(type(decoder := new_decoder(self, rows, longest)))
        return decoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NativeEngine, "_new_decoder", spy)
        resume_run(tmp_path / "run")
    assert set(decoders) == {BlocksDecoder}


@pytest.mark.usefixtures("without_report")
def test_resume_without_a_checkpoint_starts_over(model_folder: str, tmp_path: Path) -> None:
    recipe = small("countdown-tiny", model_folder)
    run = begun_run(recipe, tmp_path / "run")
    run.append_metrics({"step": 1, "reward": 0.0})
    resumed = resume_run(run.path)
    assert [record["step"] for record in resumed.metrics()] == [1, 2]


@pytest.mark.usefixtures("without_report")
def test_save_total_limit_keeps_the_newest(model_folder: str, tmp_path: Path) -> None:
    recipe = small("countdown-tiny", model_folder, "train.max_steps=4", "train.save_total_limit=2")
    run = start_run(recipe, tmp_path / "run")
    names = sorted(path.name for path in run.checkpoints.iterdir())
    assert names == ["step-000003", "step-000004"]


@pytest.mark.usefixtures("without_report")
def test_the_seed_decides_the_run(model_folder: str, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> list[dict[str, Any]]:
        recipe = small("countdown-tiny", model_folder, f"train.seed={seed}", "evaluation.n=0")
        return comparable(start_run(recipe, tmp_path / name).metrics())

    assert run("a", 0) == run("b", 0)
    assert run("c", 1) != run("d", 0)


@pytest.mark.usefixtures("without_report")
def test_held_out_problems_are_evaluated_while_it_trains(model_folder: str, tmp_path: Path) -> None:
    recipe = small(
        "countdown-tiny", model_folder, "train.max_steps=5", "train.save_steps=2",
        "evaluation.every=2",
    )  # fmt: skip
    whole = start_run(recipe, tmp_path / "whole")
    records = whole.metrics()
    assert [r["step"] for r in records if "eval/accuracy" in r] == [2, 4]
    for record in (records[1], records[3]):
        kept = whole.read_lines(f"evals/step-{record['step']:06d}.jsonl")
        assert record["eval/n"] == len(kept) == 4
        assert record["eval/mean_length"] == sum(one["tokens"] for one in kept) / 4
        assert record["eval/ci95_low"] <= record["eval/accuracy"] <= record["eval/ci95_high"]
    # The figures of a run are the same whether it looks or not, and however it was interrupted.
    plain = start_run(
        small("countdown-tiny", model_folder, "train.max_steps=5"), tmp_path / "plain"
    )
    without = [{k: v for k, v in r.items() if "eval" not in k} for r in comparable(records)]
    assert without == comparable(plain.metrics())

    stopped_run(recipe, tmp_path / "parts", 4)
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "step-000004")
    parts = resume_run(tmp_path / "parts")
    assert comparable(parts.metrics()) == comparable(records)
    names = ["step-000002.jsonl", "step-000004.jsonl"]
    for run in (parts, whole):
        assert sorted(path.name for path in run.evals.iterdir()) == names
    assert (parts.evals / names[1]).read_bytes() == (whole.evals / names[1]).read_bytes()
