"""Ends of completions, their sampler, and the adapters it uses."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from aha.model.load import load_model
from aha.recipe import Recipe, load_recipe
from aha.sections import TrlSection
from aha.tiny import weights_path
from aha.trained import find_subject
from aha.trl.backend import require_vllm_server, resume_run, start_run
from aha.trl.materials import Endings, groups_of
from aha.types import Completion, Problem, Prompt, RunFailure, UserError

Make = Callable[..., Recipe]
pytestmark = pytest.mark.usefixtures("without_report")


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return found


def test_a_completion_ends_with_the_token_that_completes_a_stop_string(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    endings = Endings(tokenizer, [end], ["= 7"])
    stopped, whole = ids(tokenizer, "3 + 4 = 7"), ids(tokenizer, "3 + 5 = 8 ,")
    rows = [[*stopped, padding, padding], whole, [*ids(tokenizer, "9"), end]]
    cut = endings.cut(rows)
    assert cut == [stopped, whole, rows[2]]
    assert endings.stopped(cut) == [True, False, True]
    assert Endings(tokenizer, [end], []).cut(rows) == rows


def test_rows_of_two_problems_make_no_group() -> None:
    def row(key: str) -> tuple[str, Completion]:
        return key, Completion("", (1,), (), "stop")

    problems = {key: Problem("t", key, {}) for key in "ab"}
    groups = groups_of([row("a"), row("a"), row("b"), row("b")], 2, problems, lambda p: PROMPT)
    assert [group.problem.key for group in groups] == ["a", "b"]
    with pytest.raises(RunFailure, match="not of one problem"):
        groups_of([row("a"), row("b")], 2, problems, lambda p: PROMPT)


PROMPT = Prompt("p", "", (1,))


def test_a_run_with_stop_strings(small: Make, tmp_path: Path) -> None:
    recipe = small(
        "trl", "model.name=aha-tiny", "generation.stop=['not', 'yes']", "train.max_steps=2",
        "generation.max_completion_length=60",
    )  # fmt: skip
    run = start_run(recipe, tmp_path / "run")
    completions = [c for s in run.read_lines("samples.jsonl") for c in s["completions"]]
    stopped = [c for c in completions if not c["truncated"]]
    assert len(stopped) > len(completions) / 2
    for completion in stopped:
        assert completion["text"].endswith(("not", "yes")), completion["text"]
    # What comes before the stop string is what was written, with nothing after it.
    assert all("not" not in c["text"][:-3] for c in stopped)
    assert max(r["completions/max_length"] for r in run.metrics()) <= 60


def test_adapters_are_trained_kept_and_evaluated(small: Make, tmp_path: Path) -> None:
    lora = "lora={r: 4, alpha: 8, target_modules: [q_proj, v_proj]}"
    recipe = small(
        "trl", "model.name=aha-tiny", lora, "optimizer.learning_rate=1e-2", "grpo.beta=0.01",
        "generation.max_completion_length=40",
    )  # fmt: skip
    run = start_run(recipe, tmp_path / "run")
    folder = run.checkpoints / "step-000003"
    adapter = load_file(folder / "adapter_model.safetensors")
    # One layer or more of two matrices for queries and values each; B has left zero.
    assert {name.split(".")[-3] for name in adapter} == {"q_proj", "v_proj"}
    assert all(tensor.dtype == torch.float32 for tensor in adapter.values())
    assert any(tensor.abs().max() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    assert run.metrics()[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert run.metrics()[2]["kl"] > 1e-6
    subject = find_subject(str(run.path))
    model = load_model(load_recipe("countdown-tiny", [f"model.name={subject.source}"]).model)
    base = load_file(weights_path() / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    moved = dict(model.named_parameters())[name] - base[name]
    a, b = (adapter[f"base_model.model.{name.replace('weight', f'lora_{x}.weight')}"] for x in "AB")
    assert torch.allclose(moved, 2.0 * b @ a, atol=1e-6)  # alpha / r is 2


def test_adapters_begin_and_resume_as_they_were(small: Make, tmp_path: Path) -> None:
    changes = ("lora={r: 4}", "train.max_steps=4", "evaluation.n=4", "train.save_steps=2")
    whole = start_run(small("trl", *changes), tmp_path / "whole")
    with pytest.raises(BaseException, match="after saving"):
        start_run(small("trl", *changes, "train.max_hours=1e-9"), tmp_path / "parts")
    parts = resume_run(tmp_path / "parts", ["train.max_hours=null"])
    name = "step-000004/adapter_model.safetensors"
    expected, got = load_file(whole.checkpoints / name), load_file(parts.checkpoints / name)
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert parts.evaluation() == whole.evaluation()
    assert parts.metrics()[0]["step"] == 1


class FakeVLLM:
    """TRL's interface to vLLM, with a model that says one thing and is a little unsure of it."""

    made: list[FakeVLLM] = []  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.synced = 0
        FakeVLLM.made.append(self)

    def sync_weights(self) -> None:
        self.synced += 1

    def generate(
        self, prompts: list[list[int]], images: None, num_generations: int, profiler: Any
    ) -> tuple[Any, ...]:
        end = self.settings["processing_class"].eos_token_id
        written = [[10 + row % 3, 20, end] for row in range(len(prompts))]
        logprobs = [[[-5.0], [None], [-4.0]] for _ in written]
        return prompts, written, logprobs, None


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_vllm_writes_and_its_difference_is_recorded(
    mode: str, small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aha.trl.config as config

    monkeypatch.setattr(config, "find_spec", lambda name: object())
    monkeypatch.setattr("trl.trainer.grpo_trainer.VLLMGeneration", FakeVLLM)
    if mode == "server":
        info = {"model_config": {"logprobs_mode": "processed_logprobs"}}
        client = type("Client", (), {"get_server_info": lambda self: info})
        monkeypatch.setattr(FakeVLLM, "vllm_client", client(), raising=False)
    FakeVLLM.made.clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        options = f"trl={{vllm: {mode}, vllm_server_port: {port if mode == 'server' else 8000}}}"
        recipe = small("trl", options, "generation.temperature=0.9", "generation.max_rows=5")
        run = start_run(recipe, tmp_path / "run")
    (vllm,) = FakeVLLM.made
    assert vllm.settings["mode"] == mode
    assert vllm.settings["temperature"] == 0.9
    assert vllm.settings["max_model_length"] == 8 + 20
    assert vllm.synced == 3  # before every step's rollout
    for record in run.metrics():
        # The token without a log-probability is left out of the difference.
        assert 0 < record["logprob_gap"] < 20
        assert record["completions/mean_length"] == 3
        assert record["completions/clipped_ratio"] == 0
    first = run.read_lines("samples.jsonl")[0]["completions"]
    assert [c["tokens"] for c in first] == [3] * 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_vllm_in_the_trainer_s_process_has_the_trainer_s_type(
    dtype: str, small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aha.trl.config as config

    class Started(Exception):
        """What vLLM was started with."""

    def start_vllm(**settings: Any) -> None:
        raise Started(settings)

    monkeypatch.setattr(config, "find_spec", lambda name: object())
    generation = "trl.generation.vllm_generation"
    monkeypatch.setattr(f"{generation}.is_vllm_available", lambda: True)
    monkeypatch.setattr(f"{generation}.LLM", start_vllm, raising=False)
    with pytest.raises(Started) as started:
        start_run(small("trl", "trl.vllm=colocate", f"model.dtype={dtype}"), tmp_path / "run")
    settings = started.value.args[0]
    assert settings["dtype"] == dtype
    assert settings["max_model_len"] == 8 + 20


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        section = TrlSection(vllm="server", vllm_server_port=port)
        require_vllm_server(section, seconds=0.0)
    with pytest.raises(UserError, match=rf"at 127\.0\.0\.1:{port} nothing listened for 0 s"):
        require_vllm_server(section, seconds=0.0)
    require_vllm_server(TrlSection(vllm="colocate"), seconds=0.0)


def test_vllm_is_not_here(small: Make, tmp_path: Path) -> None:
    pytest.importorskip("trl.trainer")
    from importlib.util import find_spec

    if find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    with pytest.raises(UserError, match="needs the package vllm"):
        start_run(small("trl", "trl.vllm=colocate"), tmp_path / "run")
