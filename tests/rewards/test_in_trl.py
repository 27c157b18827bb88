"""Our rewards run in TRL's GRPOTrainer as they are, on plain text and on chat messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

pytest.importorskip("trl.trainer", reason="trl is not installed; it needs Python 3.11")

from aha.rewards import load_reward
from trl import GRPOConfig, GRPOTrainer

QUESTION = "What is 2 + 2?"
CHAT = [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize(
    ("prompt", "columns", "names"),
    [
        (QUESTION, {"answer": "4"}, ["accuracy", "correctness", "int", "xmlcount", "cosine"]),
        (CHAT, {"solution": "so \\boxed{4}"}, ["accuracy", "cosine", "reflection", "format"]),
        (
            CHAT,
            {"target": 4, "nums": [2, 2]},
            ["equation", "accuracy", "length", "reasoning_steps"],
        ),
    ],
    ids=["text", "chat", "countdown"],
)
def test_a_step_of_trl_with_our_rewards(
    prompt: Any,
    columns: dict[str, Any],
    names: list[str],
    random_model: Callable[..., PreTrainedModel],
    byte_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    config = GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to=[],
        max_steps=1,
        logging_steps=1,
        save_strategy="no",
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=12,
    )
    trainer = GRPOTrainer(
        model=random_model(vocab_size=len(byte_tokenizer)),
        reward_funcs=[load_reward(name) for name in names],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt, **columns}] * 4),
        processing_class=byte_tokenizer,
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    for name in names:
        assert f"rewards/{name}/mean" in logged
