"""Changed recipes, time limits, sick steps, faulty rewards, damaged checkpoints: small runs."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import aha.train.loop as loop
from aha.observe.alerts import WINDOW, Watch
from aha.recipe import Recipe, changes, load_recipe
from aha.rewards.score import rewards_of, score
from aha.runs import RunDirectory
from aha.sections import LoggingSection
from aha.train import checkpoint
from aha.train.start import resume_run, start_run
from aha.train.stop import EXIT_TIME_IS_UP, StopRequest
from aha.types import Completion, Problem, Prompt, RunFailure, Stopped, UserError
from stopped_run import stopped_run

pytestmark = pytest.mark.usefixtures("without_report")


def small(model_folder: str, *more: str) -> Recipe:
    return load_recipe(
        "countdown-tiny",
        [
            f"model.name={model_folder}", "train.max_steps=4", "train.save_steps=1",
            "grpo.prompts_per_step=2", "generation.num_generations=2", "evaluation.n=0",
            "generation.max_completion_length=12", "logging.report_to=[]",
            "rewards=[{name: length_penalty, options: {start: 0.0}}]", *more,
        ],
    )  # fmt: skip


def test_changes_are_named_by_key() -> None:
    one = load_recipe("countdown-tiny")
    two = load_recipe("countdown-tiny", ["grpo.beta=0.1", "logging.samples_steps=3"])
    found = changes(one, two)
    assert {change.key: change.free for change in found} == {
        "grpo.beta": False,
        "logging.samples_steps": True,
    }
    assert str(found[0]) == "grpo.beta: 0.0 -> 0.1"
    assert changes(one, one) == []


def test_a_resumed_run_refuses_a_recipe_that_means_something_else(
    model_folder: str, tmp_path: Path
) -> None:
    stopped_run(small(model_folder), tmp_path / "run", 2)
    with pytest.raises(UserError, match=r"grpo.beta: 0.0 -> 0.1 .*--allow-change"):
        resume_run(tmp_path / "run", ["grpo.beta=0.1"])
    # Refused before anything was touched.
    assert RunDirectory(tmp_path / "run").recipe().grpo.beta == 0.0
    run = resume_run(tmp_path / "run", ["grpo.beta=0.1"], allow_change=True)
    assert run.recipe().grpo.beta == 0.1
    assert load_recipe(str(run.path / "recipe-until-step-2.yaml")).grpo.beta == 0.0
    assert [record["step"] for record in run.metrics()] == [1, 2, 3, 4]


def test_a_recipe_that_does_not_fit_its_task_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Path(__file__).parents[1] / "data" / "gsm8k.jsonl"
    recipe = load_recipe("countdown-tiny", ["task.name=gsm8k", f"task.source={rows}"])
    for _ in range(2):
        with pytest.raises(UserError, match=r"prompt.style is 'compact'"):
            start_run(recipe, tmp_path / "run")
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_is_refused_late_leaves_nothing(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise UserError("not logged in")

    monkeypatch.setattr("aha.observe.reporter.TrackerObserver", refuses)
    monkeypatch.setattr("aha.train.start.require_services", lambda _: None)
    with pytest.raises(UserError, match="not logged in"):
        start_run(small(model_folder, "logging.report_to=[tensorboard, wandb]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_changes_no_result_may_be_changed(model_folder: str, tmp_path: Path) -> None:
    stopped_run(small(model_folder), tmp_path / "run", 2)
    run = resume_run(tmp_path / "run", ["train.save_total_limit=5"])
    assert len(checkpoint.list_checkpoints(run.checkpoints)) == 4


def test_the_time_limit_saves_and_stops_in_time() -> None:
    stop = StopRequest(max_hours=1.0)
    stop.check(10.0)
    with pytest.raises(Stopped, match=r"train.max_hours=1 after saving") as stopped:
        stop.check(3601.0)
    assert stopped.value.code == EXIT_TIME_IS_UP


def test_a_run_that_is_out_of_time_goes_on_later(model_folder: str, tmp_path: Path) -> None:
    whole = start_run(small(model_folder), tmp_path / "whole")
    with pytest.raises(Stopped):
        start_run(small(model_folder, "train.max_hours=1e-9"), tmp_path / "run")
    assert [r["step"] for r in RunDirectory(tmp_path / "run").metrics()] == [1]
    run = resume_run(tmp_path / "run", ["train.max_hours=null"])
    assert [r["reward"] for r in run.metrics()] == [r["reward"] for r in whole.metrics()]


def test_a_clock_that_jumps_changes_nothing(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: float(next(times)))
    run = start_run(small(model_folder, "train.max_hours=5"), tmp_path / "run")
    assert all(record["time/step_s"] > 0 for record in run.metrics())
    assert len(run.metrics()) == 4


def poison(trainer: Any) -> None:
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(float("nan"))


def test_a_step_without_a_finite_gradient_is_skipped_and_shown(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.train_step

    def sick_once(trainer: Any, step: int) -> Any:
        weight = trainer.model.model.norm.weight
        healthy = weight.detach().clone()
        if step == 2:
            poison(trainer)
        finished = real(trainer, step)
        if step == 2:
            assert weight.isnan().all(), "the sick step must move nothing"
            weight.data.copy_(healthy)
        return finished

    monkeypatch.setattr(loop, "train_step", sick_once)
    run = start_run(small(model_folder), tmp_path / "run")
    assert [record["skipped"] for record in run.metrics()] == [False, True, False, False]
    sick = run.metrics()[1]
    assert sick["loss"] is None
    assert sick["sick_rows"] == [0, 1, 2, 3]
    # Step 2 is not due for samples; the groups to blame are there all the same.
    assert {record["step"] for record in run.read_lines("samples.jsonl")} == {1, 2}


def test_too_many_sick_steps_end_the_run_with_advice(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.train_step

    def always_sick(trainer: Any, step: int) -> Any:
        poison(trainer)
        return real(trainer, step)

    monkeypatch.setattr(loop, "train_step", always_sick)
    with pytest.raises(RunFailure, match=r"3 steps in a row .*learning_rate"):
        start_run(small(model_folder, "train.max_skipped_steps=3"), tmp_path / "run")


def step_record(step: int, **figures: Any) -> dict[str, Any]:
    healthy = {
        "step": step, "frac_reward_zero_std": 0.2, "completions/clipped_ratio": 0.1,
        "entropy": 0.5, "kl": 0.01, "reward": 0.5,
    }  # fmt: skip
    return {**healthy, **figures}


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"frac_reward_zero_std": 1.0}, ["no signal", "num_generations"]),
        ({"completions/clipped_ratio": 0.95}, ["cut off", "max_completion_length"]),
        ({"entropy": 0.001}, ["entropy", "epsilon_high", "num_iterations"]),
        ({"kl": 50.0}, ["KL", "learning_rate"]),
        ({"reward": 0.01}, ["reward has collapsed", "checkpoint"]),
        ({"reward": None, "frac_reward_zero_std": 1.0}, ["no signal"]),
    ],
)
def test_trouble_is_told_once_with_advice(figures: dict[str, Any], words: list[str]) -> None:
    watch = Watch(LoggingSection(alerts_window=0))
    told = [a for step in range(1, 31) for a in watch.check(step_record(step))]
    assert told == []
    steps = range(31, 61)
    told = [a.message for step in steps for a in watch.check(step_record(step, **figures))]
    for word in words:
        assert any(word in text for text in told), told
    assert len(told) == len(set(told)) <= 2
    # When it is over and comes back, it is told again.
    [watch.check(step_record(step)) for step in range(61, 61 + WINDOW)]
    steps = range(80, 100)
    again = [a.message for step in steps for a in watch.check(step_record(step, **figures))]
    assert any(words[0] in text for text in again)


@pytest.mark.parametrize("known", [range(1, 11), range(20, 61)], ids=["first", "last"])
def test_what_is_not_known_is_no_trouble(known: range) -> None:
    watch = Watch(LoggingSection(alerts_window=0))
    unknown = {"entropy": None, "kl": None}
    for step in range(1, 61):
        figures = {"entropy": 0.005} if step in known else unknown
        assert watch.check(step_record(step, **figures)) == []


def test_steps_without_signal_record_no_entropy_and_no_collapse(
    model_folder: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "steps = []\ndef early(completions, **_):\n    steps.append(1)\n"
        "    return [float(i % 2) if len(steps) <= 13 else 1.0 for i in range(len(completions))]\n"
    )
    # The first call is the trial before the start.
    rewards = f"rewards=[{{name: '{tmp_path}/mine.py:early'}}]"
    more = ("train.max_steps=24", "train.save_steps=24", "logging.report_to=[tensorboard]")
    run = start_run(small(model_folder, rewards, *more), tmp_path / "run")
    for record in run.metrics():
        trained = record["step"] <= 12
        assert record["trained_rows"] == (4 if trained else 0)
        for key in ("entropy", "kl", "clip_ratio", "logprob_gap"):
            assert (record[key] is not None) == trained, key
        assert (record["grad_norm"] > 0) == trained
    messages = [alert["message"] for alert in run.read_lines("alerts.jsonl")]
    assert any("no signal" in message for message in messages)
    assert not any("entropy" in message for message in messages), messages


FAULTS = {
    "raises": "def reward(completions, **kwargs):\n"
    "    return [1.0 if 'bad' not in c else 1 / 0 for c in completions]\n",
    "hangs": "import time\ndef reward(completions, **kwargs):\n"
    "    [time.sleep(60) for c in completions if 'bad' in c]\n"
    "    return [1.0] * len(completions)\n",
    "text": "def reward(completions, **kwargs):\n"
    "    return ['x' if 'bad' in c else 1.0 for c in completions]\n",
    "infinite": "def reward(completions, **kwargs):\n"
    "    return [float('inf') if 'bad' in c else 1.0 for c in completions]\n",
}


def scored(kind: str, tmp_path: Path, on_error: str) -> list[float | None]:
    (tmp_path / "mine.py").write_text(FAULTS[kind])
    section = f"{{name: '{tmp_path}/mine.py:reward', on_error: {on_error}, timeout_s: 1.0}}"
    recipe = load_recipe("countdown-tiny", [f"rewards=[{section}]"])
    texts = ["good", "bad one", "good"]
    rows = len(texts)
    scores = score(
        rewards_of(recipe),
        [Problem("countdown", "k", {"target": 1, "nums": [1]})] * rows,
        [Prompt("p", "", (1,))] * rows,
        [Completion(text, (1,), (0.0,), "stop") for text in texts],
    )
    return [s.raw["reward"] for s in scores]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_reward_is_named_with_its_row_and_text(kind: str, tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"reward 'reward' .*row 1, completion 'bad one'"):
        scored(kind, tmp_path, "stop")


@pytest.mark.parametrize("kind", FAULTS)
def test_or_its_row_gets_no_score_where_the_recipe_says_so(kind: str, tmp_path: Path) -> None:
    assert scored(kind, tmp_path, "none") == [1.0, None, 1.0]


@pytest.fixture
def checkpoints(model_folder: str, tmp_path: Path) -> Path:
    stopped_run(small(model_folder), tmp_path / "run", 3)
    return tmp_path / "run" / "checkpoints"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped": lambda c: flip(c / "model.safetensors"),
    "truncated": lambda c: (c / "trainer_state.pt").write_bytes(b"PK"),
    "missing": lambda c: (c / "model.safetensors").unlink(),
    "no state": lambda c: (c / "trainer_state.pt").unlink(),
    "no sums": lambda c: (c / "checksums.json").unlink(),
    "odd sums": lambda c: (c / "checksums.json").write_text("[1]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    kind: str, checkpoints: Path, model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = start_run(small(model_folder), checkpoints.parents[1] / "whole")
    DAMAGE[kind](checkpoints / "step-000003")
    run = resume_run(checkpoints.parent)
    output = capsys.readouterr().out
    assert f"{checkpoints / 'step-000003'} is damaged" in output
    assert "from the checkpoint of step 2" in output
    one, two = (r.checkpoints / "step-000004" / "model.safetensors" for r in (run, whole))
    assert one.read_bytes() == two.read_bytes()


def test_a_checkpoint_that_the_record_does_not_reach_is_passed_over(
    checkpoints: Path, model_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a copy of a run that was cut short: the checkpoint came, the record's end did not."""
    whole = start_run(small(model_folder), checkpoints.parents[1] / "whole")
    metrics = checkpoints.parent / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    run = resume_run(checkpoints.parent)
    output = capsys.readouterr().out
    assert "step-000003 is passed over: metrics.jsonl ends before it." in output
    assert "from the checkpoint of step 2" in output
    assert [record["step"] for record in run.metrics()] == [1, 2, 3, 4]
    assert run.read_lines("samples.jsonl") == whole.read_lines("samples.jsonl")


def test_a_run_without_its_record_does_not_go_on(checkpoints: Path) -> None:
    (checkpoints.parent / "metrics.jsonl").unlink()
    with pytest.raises(RunFailure, match=r"no checkpoint is whole: .*metrics.jsonl ends before"):
        resume_run(checkpoints.parent)


def test_removed_samples_stay_removed(checkpoints: Path) -> None:
    (checkpoints.parent / "samples.jsonl").unlink()
    run = resume_run(checkpoints.parent)
    assert [record["step"] for record in run.metrics()] == [1, 2, 3, 4]


def test_when_all_are_damaged_nothing_begins_again_in_silence(checkpoints: Path) -> None:
    for path in checkpoints.iterdir():
        flip(path / "model.safetensors")
    with pytest.raises(RunFailure, match="no checkpoint is whole"):
        resume_run(checkpoints.parent)


def full_after_two_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    real, calls = shutil.disk_usage, iter(range(10))
    monkeypatch.setattr(
        "shutil.disk_usage",
        lambda path: real(path) if next(calls) < 2 else usage(10**9, 10**9, 10**6),
    )


def test_a_full_disk_is_seen_before_writing(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after_two_checkpoints(monkeypatch)
    with pytest.raises(RunFailure, match=r"needs \d+ MiB .* 1 MiB left.*step-000002"):
        start_run(small(model_folder), tmp_path / "run")
    monkeypatch.undo()
    assert checkpoint.newest_valid(RunDirectory(tmp_path / "run")).path is not None
    assert len(resume_run(tmp_path / "run").metrics()) == 4


def test_a_disk_that_fills_while_writing_leaves_the_last_checkpoint(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = torch.save, iter(range(10))

    def save(*arguments: Any) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(RunFailure, match=r"No space left on device.*step-000002"):
        start_run(small(model_folder), tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in sorted(folder.iterdir())] == ["step-000001", "step-000002"]


def test_global_random_streams_go_on_where_they_were(model_folder: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import random, numpy, torch\ndef dice(completions, **kwargs):\n"
        "    return [random.random() + numpy.random.rand() + torch.rand(1).item()\n"
        "            for c in completions]\n"
    )
    recipe = small(model_folder, f"rewards=[{{name: '{tmp_path}/mine.py:dice'}}]")
    whole = start_run(recipe, tmp_path / "whole")
    stopped_run(recipe, tmp_path / "parts", 2)
    parts = resume_run(tmp_path / "parts")
    assert [r["reward"] for r in parts.metrics()] == [r["reward"] for r in whole.metrics()]


def test_the_state_holds_nothing_that_runs_code(checkpoints: Path) -> None:
    state = torch.load(checkpoints / "step-000003" / "trainer_state.pt", weights_only=True)
    assert state["step"] == 3
    sums = json.loads((checkpoints / "step-000003" / "checksums.json").read_text())
    assert set(sums) >= {"model.safetensors", "trainer_state.pt", "tokenizer.json"}


def test_saving_in_the_background_changes_nothing(model_folder: str, tmp_path: Path) -> None:
    plain = start_run(small(model_folder), tmp_path / "plain")
    beside = start_run(small(model_folder, "train.save_in_background=true"), tmp_path / "beside")
    names = [path.name for path in checkpoint.list_checkpoints(plain.checkpoints)]
    assert [path.name for path in checkpoint.list_checkpoints(beside.checkpoints)] == names
    for name in names:
        one, two = plain.checkpoints / name, beside.checkpoints / name
        assert checkpoint.damage(two) is None
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
        states = [torch.load(c / "trainer_state.pt", weights_only=True) for c in (one, two)]
        moments = [state["optimizer"]["state"] for state in states]
        for index in moments[0]:
            assert torch.equal(moments[0][index]["exp_avg"], moments[1][index]["exp_avg"])
        assert torch.equal(states[0]["torch_rng"], states[1]["torch_rng"])


def test_a_disk_that_fails_in_the_background_stops_the_run(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_after_two_checkpoints(monkeypatch)
    with pytest.raises(RunFailure, match=r"needs \d+ MiB .* 1 MiB left"):
        start_run(small(model_folder, "train.save_in_background=true"), tmp_path / "run")
    monkeypatch.undo()
    assert len(resume_run(tmp_path / "run").metrics()) == 4


def test_no_secret_of_the_environment_lands_in_a_run(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_" + "s3cret" * 6
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, secret)
    run = start_run(small(model_folder, "logging.report_to=[tensorboard]"), tmp_path / "run")
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
