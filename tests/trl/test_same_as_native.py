"""Given the same completions, a run on TRL is the native run: problems, rewards, updates, record.

What each engine samples differs; so TRL is made to write what the native engine writes, and then
every step's figures and the final weights must agree to rounding. Rewards and their differences
are the same functions on the same texts; the update is TRL's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from aha.model.gguf import kept_smollm2, packaged_smollm2
from aha.model.load import find_model
from aha.recipe import Recipe, load_recipe, with_overrides
from aha.runs import RunDirectory
from aha.tiny import weights_path
from aha.train.start import start_run
from aha.trl.backend import start_run as start_on_trl

NAME = "model.safetensors"
Make = Callable[..., Recipe]

# Figures that depend on the machine or on microbatches, and those of one engine only.
OWN = {"logprob_gap", "tokens_per_microbatch"}
CASES = {
    "plain": (),
    "microbatches": ("train.tokens_per_microbatch=200",),
    "grpo with KL and decay": (
        "grpo.beta=0.1", "train.tokens_per_microbatch=200", "optimizer.weight_decay=0.1",
        "optimizer.lr_scheduler_type=linear", "optimizer.min_lr_ratio=0.2",
    ),
    "bnpo, batch scale, clipped norm": (
        "grpo.loss_type=bnpo", "grpo.scale_rewards=batch", "optimizer.max_grad_norm=0.05",
        "train.tokens_per_microbatch=200",
    ),
    "dr_grpo, several updates": (
        "grpo.loss_type=dr_grpo", "grpo.scale_rewards=none", "grpo.num_iterations=3",
        "grpo.epsilon=0.01", "grpo.epsilon_high=0.02", "train.tokens_per_microbatch=200",
        "optimizer.learning_rate=3e-3",
    ),
    "bonus for entropy": ("grpo.entropy_coef=0.05",),
    # No group of the second step has signal, so there is no step for Adam's momentum either.
    "a step without signal": ("rewards=[{name: accuracy}]", "train.seed=5"),
    "dapo, masked, cooler": (
        "grpo.loss_type=dapo", "grpo.mask_truncated_completions=true",
        "generation.temperature=0.7", "train.tokens_per_microbatch=200",
    ),
}  # fmt: skip


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    own = ("time/", "memory/", "machine/")
    return {k: v for k, v in record.items() if k not in OWN and not k.startswith(own)}


@pytest.fixture
def chat_model(
    random_model: Callable[..., Any], byte_tokenizer: PreTrainedTokenizerFast
) -> Callable[[Path], str]:
    """Saves a small untrained model with a chat template in a folder, and returns the folder."""

    def save(folder: Path) -> str:
        size = {"vocab_size": len(byte_tokenizer), "max_position_embeddings": 1024}
        random_model(**size).save_pretrained(folder)
        byte_tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / "step-000003" / NAME)


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_the_same_completions_make_the_same_run(
    changes: tuple[str, ...],
    small: Make,
    native_sampling: None,
    without_report: None,
    tmp_path: Path,
) -> None:
    more = ("model.name=aha-tiny", "optimizer.learning_rate=1e-3", "optimizer.warmup_ratio=0.3",
            "generation.max_completion_length=40", "optimizer.adam_beta1=0.8",
            # Large, for Adam would make steps of full size of gradients that are rounding only.
            "optimizer.adam_beta2=0.9", "optimizer.adam_epsilon=1e-3", *changes)  # fmt: skip
    native = start_run(small("native", *more), tmp_path / "native")
    trl = start_on_trl(small("trl", *more), tmp_path / "trl")
    trained = [record["trained_rows"] for record in native.metrics()]
    assert (trained[1] == 0) == ("train.seed=5" in changes)
    assert trained[0] * trained[2] > 0
    # What is not trained on is not measured either.
    unknown = [record["entropy"] is None for record in native.metrics()]
    assert unknown == [rows == 0 for rows in trained]
    for ours, theirs in zip(native.metrics(), trl.metrics(), strict=True):
        assert set(ours) == set(theirs)
        for key, value in comparable(ours).items():
            # A loss is a sum that nearly cancels, so it is compared by its parts' size.
            same = pytest.approx(value, rel=2e-4, abs=2e-6) if type(value) is float else value
            assert theirs[key] == same, key
    assert [s["prompt"] for s in native.read_lines("samples.jsonl")] == [
        s["prompt"] for s in trl.read_lines("samples.jsonl")
    ]
    ours, theirs = native.read_lines("samples.jsonl"), trl.read_lines("samples.jsonl")
    for one, two in zip(ours, theirs, strict=True):
        for a, b in zip(one["completions"], two["completions"], strict=True):
            assert a.pop("advantage") == pytest.approx(b.pop("advantage"), rel=1e-4, abs=1e-6)
            assert a == b
    before, expected, got = load_file(weights_path() / NAME), weights(native), weights(trl)
    assert before.keys() == expected.keys() == got.keys()
    for name in expected:
        moved = (expected[name] - before[name]).norm()
        assert moved > 1e-4, name
        assert (got[name] - expected[name]).norm() < 1e-3 * moved, name
    assert trl.evaluation().keys() == native.evaluation().keys() == {"before", "after"}
    assert trl.evaluation()["before"] == native.evaluation()["before"]


@pytest.mark.parametrize("model", ["random", pytest.param("smollm2-135m", marks=pytest.mark.slow)])
def test_a_language_models_recipe_has_the_same_loss_and_gradients(
    model: str,
    native_sampling: None,
    without_report: None,
    chat_model: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    """The figures of two updates on word problems, and how far the first moves weights."""
    if model == "random":
        model = chat_model(tmp_path / "random")
    elif kept_smollm2() is None and packaged_smollm2() is None:
        pytest.skip("the package with SmolLM2 is not installed (make smollm2)")
    varies = tmp_path / "varies.py"
    varies.write_text(
        "def letters(completions, **_):\n"
        "    return [len(set(turn[0]['content'])) / 10 for turn in completions]\n"
    )
    changes = [
        f"model.name={model}", "train.max_steps=2", "train.save_steps=1", "evaluation.n=0",
        "grpo.prompts_per_step=2", "generation.num_generations=4", "logging.report_to=[]",
        "generation.max_completion_length=24", "optimizer.learning_rate=1e-3",
        # Large, for Adam would make steps of full size of gradients that are rounding only.
        "optimizer.adam_epsilon=1e-3",
        f"rewards=[{{name: accuracy}}, {{name: hash_format}}, {{name: '{varies}:letters'}}]",
    ]  # fmt: skip
    recipe = load_recipe("word-problems-smollm2", changes)
    native = start_run(recipe, tmp_path / "native")
    trl = start_on_trl(with_overrides(recipe, ["engine=trl"]), tmp_path / "trl")
    for ours, theirs in zip(native.metrics(), trl.metrics(), strict=True):
        assert ours["trained_rows"] > 0
        for key in ("loss", "grad_norm", "entropy", "reward"):
            assert theirs[key] == pytest.approx(ours[key], rel=2e-4, abs=2e-6), key
    before, expected, got = (
        load_file(folder / NAME)
        for folder in (
            Path(find_model(model)),
            *(run.checkpoints / "step-000001" for run in (native, trl)),
        )
    )
    for name in expected:
        moved = (expected[name] - before[name]).norm()
        assert moved > 0, name
        assert (got[name] - expected[name]).norm() < 1e-3 * moved, name


def test_both_engines_open_the_thoughts_once(
    small: Make,
    native_sampling: None,
    without_report: None,
    chat_model: Callable[[Path], str],
    tmp_path: Path,
) -> None:
    """With a chat template whose generation prompt ends in the opening tag."""
    folder, rewards = tmp_path / "chat", tmp_path / "opened.py"
    chat_model(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}\n{% endfor %}{{ '[assistant] <think>\n' }}"
    )
    rewards.write_text(
        "def turn(prompts, completions, **_):\n"
        "    return [p[-1]['content'] == '<think>\\n' and len(c) == 1\n"
        "            for p, c in zip(prompts, completions)]\n"
    )
    changes = (f"model.name={folder}", "prompt.style=plain", "prompt.format=chat",
               "train.max_steps=1", f"rewards=[{{name: '{rewards}:turn'}}]")  # fmt: skip
    for start, engine in ((start_run, "native"), (start_on_trl, "trl")):
        run = start(small(engine, *changes), tmp_path / engine)
        assert [record["rewards/turn/mean"] for record in run.metrics()] == [1.0]
        for group in run.read_lines("samples.jsonl"):
            assert group["prompt"].endswith("[assistant] <think>\n")
