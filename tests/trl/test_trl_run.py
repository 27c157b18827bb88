"""Runs on TRL: what they write, how they stop, go on and fail."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GraniteConfig, PreTrainedTokenizerFast

import aha.trl.backend as backend
import aha.trl.materials as materials
from aha.recipe import Recipe, load_recipe, shipped_recipes
from aha.runs import RunDirectory
from aha.tasks import load_problems
from aha.tasks.prompts import ask
from aha.train.checkpoint import damage, latest_checkpoint
from aha.train.schedule import learning_rate_at
from aha.train.start import start_run as start_natively
from aha.train.stop import EXIT_TIME_IS_UP
from aha.trl.backend import resume_run, start_run
from aha.trl.trainer import RecipeTrainer
from aha.types import Problem, RunFailure, Stopped, UserError

Make = Callable[..., Recipe]


def files(run: RunDirectory) -> set[str]:
    return {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = ("time/", "memory/", "machine/")
    return [{k: v for k, v in r.items() if not k.startswith(own)} for r in records]


def weights(run: RunDirectory, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / f"step-{step:06d}" / "model.safetensors")


def test_a_run_has_the_native_files_and_keys(small: Make, tmp_path: Path) -> None:
    changes = ("train.max_steps=2", "evaluation.every=1", "logging.report_to=[tensorboard]")
    native = start_natively(small("native", *changes), tmp_path / "native")
    run = start_run(small("trl", *changes), tmp_path / "trl")
    events = {name for name in files(run) if name.startswith("events/")}
    trls = {
        f"checkpoints/step-00000{step}/{name}"
        for step in (1, 2)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    }
    assert events
    assert {n for n in files(native) if not n.startswith("events/")} == files(run) - events - trls
    ours, theirs = native.metrics(), run.metrics()
    assert [set(record) for record in theirs] == [set(record) for record in ours]
    assert [record["step"] for record in theirs] == [1, 2]
    assert "eval/accuracy" in theirs[0]
    assert theirs[0]["logprob_gap"] is None
    assert [record["learning_rate"] for record in theirs] == pytest.approx(
        [record["learning_rate"] for record in ours], rel=1e-12
    )
    assert json.loads(run.eval_file.read_text()).keys() == {"before", "after"}
    assert run.evaluation()["before"] == native.evaluation()["before"]
    AutoModelForCausalLM.from_pretrained(run.checkpoints / "step-000002")
    assert damage(run.checkpoints / "step-000002") is None


def test_a_start_that_is_refused_late_leaves_nothing(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise UserError("not logged in")

    monkeypatch.setattr("aha.trl.backend.observers_of", refuses)
    with pytest.raises(UserError, match="not logged in"):
        start_run(small("trl"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_report")
def test_samples_hold_whole_groups_with_their_questions(small: Make, tmp_path: Path) -> None:
    native = start_natively(small("native", "train.max_steps=2"), tmp_path / "native")
    run = start_run(small("trl", "train.max_steps=2"), tmp_path / "trl")
    groups, expected = run.read_lines("samples.jsonl"), native.read_lines("samples.jsonl")
    assert len(groups) == 6
    for group, other in zip(groups, expected, strict=True):
        assert (group["step"], group["key"]) == (other["step"], other["key"])
        assert group["prompt"] == other["prompt"]
        assert group["columns"] == other["columns"]
        assert len(group["completions"]) == 4
        for completion in group["completions"]:
            assert set(completion) == set(other["completions"][0])
            assert completion["reward"] == pytest.approx(sum(completion["weighted"].values()))
            assert completion["weighted"]["digits"] == 0.5 * completion["rewards"]["digits"]
        assert math.fsum(c["advantage"] for c in group["completions"]) == pytest.approx(0, abs=1e-3)


@pytest.mark.usefixtures("without_report")
def test_the_schedule_is_the_native_one_at_every_step(small: Make, tmp_path: Path) -> None:
    recipe = small(
        "trl", "train.max_steps=5", "train.save_steps=5", "evaluation.n=0",
        "optimizer.lr_scheduler_type=linear", "optimizer.warmup_ratio=0.4",
        "optimizer.min_lr_ratio=0.1", "grpo.num_iterations=2",
    )  # fmt: skip
    run = start_run(recipe, tmp_path / "run")
    expected = [learning_rate_at(step, 5, recipe.optimizer) for step in range(1, 6)]
    assert [r["learning_rate"] for r in run.metrics()] == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("without_report")
def test_an_interrupted_run_goes_on_bit_for_bit(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(
        "trl", "train.max_steps=5", "train.save_steps=2", "train.tokens_per_microbatch=120",
        "grpo.num_iterations=2",
    )  # fmt: skip
    whole = start_run(recipe, tmp_path / "whole")
    real = RecipeTrainer.finish_step

    def interrupted(trainer: Any, number: int) -> Any:
        if trainer.state.global_step == 2 * 4:
            raise KeyboardInterrupt
        return real(trainer, number)

    monkeypatch.setattr(RecipeTrainer, "finish_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_run(recipe, tmp_path / "parts")
    monkeypatch.undo()
    monkeypatch.setattr("aha.report.pages.build_report", lambda run: run.report_file)
    # Step 3 was recorded, but the last checkpoint is of step 2.
    parts = resume_run(tmp_path / "parts")
    assert comparable(parts.metrics()) == comparable(whole.metrics())
    assert parts.read_lines("samples.jsonl") == whole.read_lines("samples.jsonl")
    assert parts.evaluation() == whole.evaluation()
    expected, got = weights(whole, 5), weights(parts, 5)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert sorted(path.name for path in parts.checkpoints.iterdir()) == [
        "step-000004", "step-000005",
    ]  # fmt: skip


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_a_signal_saves_and_the_run_goes_on(
    number: int, code: int, small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("trl", "train.save_steps=100", "evaluation.n=0")
    real = RecipeTrainer._generate

    def signalled(trainer: Any, prompts: Any) -> Any:
        if trainer.state.global_step == 1:
            os.kill(os.getpid(), number)
        return real(trainer, prompts)

    monkeypatch.setattr(RecipeTrainer, "_generate", signalled)
    with pytest.raises(Stopped, match=r"after saving; go on with --resume") as stopped:
        start_run(recipe, tmp_path / "run")
    assert stopped.value.code == code
    run = RunDirectory(tmp_path / "run")
    assert [record["step"] for record in run.metrics()] == [1, 2]
    newest = latest_checkpoint(run.checkpoints)
    assert newest is not None
    assert newest.name == "step-000002"
    monkeypatch.setattr(RecipeTrainer, "_generate", real)
    resume_run(run.path)
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]


@pytest.mark.usefixtures("without_report")
def test_a_run_that_is_out_of_time_stops_with_its_code(small: Make, tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"train.max_hours") as stopped:
        start_run(small("trl", "train.max_hours=1e-9", "evaluation.n=0"), tmp_path / "run")
    assert stopped.value.code == EXIT_TIME_IS_UP
    run = resume_run(tmp_path / "run", ["train.max_hours=null"])
    assert [record["step"] for record in run.metrics()] == [1, 2, 3]


@pytest.mark.usefixtures("without_report")
def test_a_checkpoint_of_the_other_engine_is_refused(small: Make, tmp_path: Path) -> None:
    run = start_natively(small("native", "evaluation.n=0"), tmp_path / "run")
    recipe = run.path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("engine: native", "engine: trl"))
    with pytest.raises(UserError, match="was written by engine native"):
        resume_run(run.path)


@pytest.mark.usefixtures("without_report")
def test_another_sharding_is_refused_before_anything_is_touched(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        start_run(small("trl", "train.max_hours=1e-9", "evaluation.n=0"), tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    run.append_metrics({"step": 2})
    monkeypatch.setattr("aha.trl.config.asked_for_fsdp", lambda: True)
    with pytest.raises(UserError, match="written with sharding 'none', and it is 'fsdp' now"):
        resume_run(run.path)
    assert [record["step"] for record in run.metrics()] == [1, 2]


@pytest.mark.usefixtures("without_report")
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.save

    def full(value: Any, path: Any) -> None:
        if "checkpoint-2" in str(path):
            raise OSError(28, "No space left on device")
        real(value, path)

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(RunFailure, match=r"step-000002 could not be .*No space .*step-000001"):
        start_run(small("trl", "evaluation.n=0"), tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-000001"]
    monkeypatch.setattr("torch.save", real)
    assert [record["step"] for record in resume_run(run.path).metrics()] == [1, 2, 3]


@pytest.mark.usefixtures("without_report")
def test_a_resumed_run_refuses_another_meaning(small: Make, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        start_run(small("trl", "train.max_hours=1e-9", "evaluation.n=0"), tmp_path / "run")
    with pytest.raises(UserError, match=r"grpo.beta: 0.0 -> 0.1 .*--allow-change"):
        resume_run(tmp_path / "run", ["grpo.beta=0.1"])


@pytest.mark.usefixtures("without_report")
def test_a_step_without_a_finite_gradient_is_skipped(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RecipeTrainer._compute_loss

    def sick(trainer: Any, model: Any, inputs: Any) -> Any:
        loss = real(trainer, model, inputs)
        return loss * math.nan if trainer.state.global_step == 1 else loss

    monkeypatch.setattr(RecipeTrainer, "_compute_loss", sick)
    run = start_run(small("trl", "evaluation.n=0", "train.save_total_limit=3"), tmp_path / "run")
    records = run.metrics()
    assert [record["skipped"] for record in records] == [False, True, False]
    assert records[1]["loss"] is None
    one, two, three = (weights(run, step) for step in (1, 2, 3))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(two[name], three[name]) for name in two)


@pytest.mark.usefixtures("without_report")
def test_too_many_skipped_steps_end_the_run(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(trainer: Any, model: Any, inputs: Any) -> Any:
        with torch.no_grad():
            trainer.policy.model.norm.weight.fill_(math.nan)
        return real(trainer, model, inputs)

    real = RecipeTrainer._compute_loss
    monkeypatch.setattr(RecipeTrainer, "_compute_loss", poisoned)
    with pytest.raises(RunFailure, match="1 steps in a row had no finite loss"):
        start_run(small("trl", "train.max_skipped_steps=1", "evaluation.n=0"), tmp_path / "run")
    (record,) = RunDirectory(tmp_path / "run").metrics()
    assert record["sick_rows"] == list(range(12))


@pytest.mark.usefixtures("without_report")
def test_a_faulty_reward_is_named(small: Make, tmp_path: Path, rewards_file: Path) -> None:
    with rewards_file.open("a") as file:
        file.write("def fails(completions, **_):\n    return [1 / 0 for _ in completions]\n")
        # Its first call is the trial before the start.
        file.write("calls = []\ndef fails_later(completions, **_):\n    calls.append(1)\n")
        file.write("    return [1 / (len(calls) == 1) for _ in completions]\n")
    rewards = f"rewards=[{{name: accuracy}}, {{name: '{rewards_file}:NAME', on_error: ON}}]"
    later = rewards.replace("NAME", "fails_later").replace("ON", "stop")
    with pytest.raises(RunFailure, match=r"reward 'fails_later' raised ZeroDivisionError"):
        start_run(small("trl", later, "evaluation.n=0"), tmp_path / "stop")
    always = rewards.replace("NAME", "fails").replace("ON", "none")
    recipe = small("trl", always, "evaluation.n=0", "train.max_steps=1")
    (record,) = start_run(recipe, tmp_path / "none").metrics()
    assert record["reward"] == record["rewards/accuracy/mean"]
    assert "rewards/fails/mean" not in record


@pytest.mark.usefixtures("without_report")
def test_rows_are_sampled_so_many_at_a_time(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import GRPOTrainer

    sizes = []
    real = GRPOTrainer._generate_single_turn

    def counted(trainer: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        return real(trainer, prompts, *rest)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", counted)
    recipe = small("trl", "generation.max_rows=5", "evaluation.n=0", "train.max_steps=1")
    (record,) = start_run(recipe, tmp_path / "run").metrics()
    assert sizes == [5, 5, 2]
    assert record["samples"] == 12


ROWS = {"countdown": "countdown", "gsm8k": "gsm8k", "math": "math500"}


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name != "countdown-tiny"])
def test_every_recipe_trains_a_step_on_real_rows(
    name: str,
    tmp_path: Path,
    random_model: Callable[..., Any],
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    folder = tmp_path / "byte-model"
    random_model(vocab_size=len(byte_tokenizer), max_position_embeddings=4096).save_pretrained(
        folder
    )
    byte_tokenizer.save_pretrained(folder)
    task = load_recipe(name).task.name
    data = Path(__file__).parents[1] / "data"
    # A task without rows generates its problems.
    source = data / f"{ROWS[task]}.jsonl" if task in ROWS else "null"
    recipe = load_recipe(
        name,
        [
            "engine=trl", f"model.name={folder}", f"task.source={source}", "train.max_steps=1",
            "grpo.prompts_per_step=2", "generation.num_generations=4", "evaluation.n=2",
            "generation.max_completion_length=12", "logging.report_to=[]", "task.problems=[]",
            "evaluation.at_least=null",
        ],
    )  # fmt: skip
    run = start_run(recipe, tmp_path / "run")
    (record,) = run.metrics()
    assert {f"rewards/{reward.name}/mean" for reward in recipe.rewards} <= set(record)
    (group, _) = run.read_lines("samples.jsonl")
    (prompt,) = ask([load_problem(recipe, group["key"])], recipe, byte_tokenizer)
    assert group["prompt"] == prompt.text


def load_problem(recipe: Recipe, key: str) -> Problem:
    problems = load_problems(recipe.task, "train", recipe.task.num_train).problems
    return next(problem for problem in problems if problem.key == key)


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    "changes",
    [
        ["model.autocast=bfloat16", "train.gradient_checkpointing=true"],
        ["model.dtype=bfloat16", "grpo.beta=0.1"],
        ["lora={r: 2}", "model.dtype=bfloat16", "train.gradient_checkpointing=true"],
    ],
    ids=["autocast", "bfloat16", "adapters on bfloat16"],
)
def test_precisions_and_checkpointing(changes: list[str], small: Make, tmp_path: Path) -> None:
    run = start_run(small("trl", "model.name=aha-tiny", *changes), tmp_path / "run")
    assert [record["skipped"] for record in run.metrics()] == [False] * 3
    assert any(record["grad_norm"] > 0 for record in run.metrics())


@pytest.mark.usefixtures("without_report")
def test_a_policy_that_trl_loads_drops_nothing_out(
    small: Make,
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, same = tmp_path / "granite", list[bool]()
    config = GraniteConfig(
        vocab_size=224, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, attention_dropout=0.5,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def train(self: RecipeTrainer, **options: Any) -> None:
        policy, ids = self.policy.train(), torch.arange(1, 40)[None]
        logits = [type(policy).forward(policy, ids).logits for _ in range(2)]
        same.append(torch.equal(*logits))

    monkeypatch.setattr(RecipeTrainer, "train", train)
    monkeypatch.setattr(materials, "asked_for_fsdp", lambda: True)
    start_run(small("trl", f"model.name={folder}", "evaluation.n=0"), tmp_path / "run")
    assert same == [True]


@pytest.mark.usefixtures("without_report")
def test_a_mistake_leaves_no_folder(small: Make, tmp_path: Path) -> None:
    for changes, words in [
        (["rewards=[{name: beauty}]"], "'beauty' is unknown"),
        (["model.name=./nowhere"], "does not exist"),
        (["lora={target_modules: [q_proj, nose]}"], "'nose' is no linear layer"),
        (["grpo.dynamic_sampling=true"], "draws a step's prompts once"),
        (["prompt={style: r1, format: chat}"], "no chat template"),
    ]:
        with pytest.raises(UserError, match=words):
            start_run(small("trl", *changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_all_processes_stop_for_the_first_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ranks:
        def gather(self, value: Any) -> list[Any]:
            return [value, ("stopped by SIGTERM after saving", 143), ("other", 3)]

    class Stop:
        def check(self, seconds: float) -> None:
            assert seconds == 2.5

    trainer: Any = type("Trainer", (), {"ranks": Ranks()})()
    end: Any = backend.BetweenSteps(trainer, None, None, Stop())  # type: ignore[arg-type]
    stopped = end._agree(2.5)
    assert (str(stopped), stopped.code) == ("stopped by SIGTERM after saving", 143)
