from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from aha.bench import against_trl
from aha.bench.native_side import NativeSide, Ratio, rollout_speeds
from aha.bench.worker import in_turn
from aha.bench.workload import (
    SHAPES,
    Spec,
    block_weights,
    decode_bytes,
    fill_optimizer,
    training_flops,
)
from aha.cli.main import main
from aha.types import RunFailure


def test_ratios_are_paired() -> None:
    assert Ratio.of([8.0, 9.0, 3.0], [2.0, 3.0, 1.0]) == Ratio(3.0, 3.0, 4.0)


def test_flops_are_those_that_pytorch_counts() -> None:
    config = Qwen2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=96, vocab_size=50, tie_word_embeddings=True,
    )  # fmt: skip
    model: Any = Qwen2ForCausalLM(config)
    rows, prompt, completion = 3, 1, 7
    with FlopCounterMode(display=False) as counter:
        model(
            input_ids=torch.zeros(rows, prompt + completion, dtype=torch.long)
        ).logits.sum().backward()
    # Attention counts half, since it is causal; PyTorch's counter takes all of it.
    width = 64
    causal = 6.0 * 2 * rows * 8**2 * width
    head = 6.0 * rows * prompt * width * 50
    expected = training_flops(config, rows, 1, prompt, completion) + causal + head
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.15)


def test_what_decoding_reads() -> None:
    config = Qwen2Config(**SHAPES["qwen2.5-0.5b"])
    # 494,032,768 parameters, of which norms and biases are the least part.
    assert block_weights(config) + 896 * 151_936 == pytest.approx(494_032_768, rel=0.001)
    cached = decode_bytes(config, 1000) - decode_bytes(config, 0)
    assert cached == 1000 * 24 * 2 * 128 * 4


def test_filling_the_optimizer_moves_nothing() -> None:
    parameter = torch.nn.Parameter(torch.randn(5))
    before = parameter.detach().clone()
    optimizer = torch.optim.AdamW([parameter], lr=0.0, weight_decay=0.0)
    fill_optimizer(optimizer)
    assert torch.equal(parameter, before)
    assert parameter.grad is None
    assert optimizer.state[parameter]["exp_avg"].shape == before.shape


@pytest.mark.slow
def test_workers_take_turns_and_report() -> None:
    spec = Spec("native", "aha-tiny", prompts=2, generations=4, limit=24, threads=1)
    steps = in_turn([spec, spec], runs=2)
    for times in [*steps[0], *steps[1]]:
        assert times.step_s >= times.rollout_s + times.train_s > 0
        assert 8 <= times.tokens <= 2 * 4 * 24
        assert times.peak_gb > 0.1
    # Learning rate 0 and the same seeds: both wrote the same.
    assert [t.tokens for t in steps[0]] == [t.tokens for t in steps[1]]


@pytest.mark.slow
def test_a_prompt_for_every_completion_is_work_too() -> None:
    alone = Spec("native", "aha-tiny", prompts=4, generations=1, limit=8, threads=1)
    ((times,),) = in_turn([alone], runs=1)
    assert 4 <= times.tokens <= 4 * 8


def test_prompts_of_a_shape_are_as_long_as_asked_and_differ() -> None:
    side = NativeSide(Spec("native", "aha-tiny", 4, 2, 3, threads=1, prompt=40))
    asked = [prompt.token_ids for prompt in side.prompts]
    assert {len(ids) for ids in asked} == {40}
    assert len(set(asked)) == 4


def test_a_worker_that_dies_says_why() -> None:
    spec = Spec("native", "no/such/model", prompts=1, generations=2, limit=4, threads=1)
    with pytest.raises(RunFailure, match="no/such/model"):
        in_turn([spec], runs=1)


@pytest.mark.slow
def test_both_sides_work_on_the_embedded_model(tmp_path: Path) -> None:
    specs = [
        Spec(side, "aha-tiny", prompts=4, generations=4, limit=32, threads=2)
        for side in ("native", "trl", "trl-continuous")
    ]
    results = in_turn(specs, runs=2)
    tokens = [sum(times.tokens for times in steps) / 2 for steps in results]
    # The same distribution on every side.
    assert max(tokens) < 1.4 * min(tokens)


def test_the_comparison_with_generate() -> None:
    ours, theirs = rollout_speeds(Spec("native", "aha-tiny", 16, 8, 240, 2), runs=1)
    assert len(ours) == len(theirs) == 1
    assert min(*ours, *theirs) > 0


def test_the_command_writes_the_promised_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio = {"median": 5.0, "low": 4.0, "high": 6.0}
    small = {"step_ratio": ratio, "rollout_ratio": {**ratio, "median": 4.5}}
    monkeypatch.setattr(
        against_trl,
        "machine_limits",
        lambda threads: {
            "processor": "A Processor",
            "features": "AVX2",
            "kernels": "avx2",
            "matmul_gflops": 1.0,
            "read_gb_per_s": 1.0,
        },
    )
    monkeypatch.setattr(against_trl, "small_model", lambda *_: small)
    monkeypatch.setattr(against_trl, "large_shape", lambda *_: {"memory_ratio": 0.5})
    words = {
        "shared_prompt_ratio": {**ratio, "median": 1.9},
        "train_share_of_peak": 0.7,
        "rollout_share_of_peak": 0.6,
    }
    monkeypatch.setattr(against_trl, "word_problems", lambda *_: words)
    path = tmp_path / "bench.json"
    main(["bench", "--json", str(path), "--after", "aha-tiny"])
    written = json.loads(path.read_text())
    assert written["step_ratio_before_rl"] == written["step_ratio_after_rl"] == 5.0
    assert written["rollout_ratio"] == 4.5
    assert written["memory_ratio"] == 0.5
    assert written["shared_prompt_ratio"] == 1.9
    assert written["train_share_of_peak_135m"] == 0.7
    assert written["rollout_share_of_peak_135m"] == 0.6


def test_a_missing_folder_is_said_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--json", str(tmp_path / "no" / "b.json")])
    assert stopped.value.code == 2
    assert "--json" in capsys.readouterr().err
