"""The KL term's reference becomes the policy every so often, also after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.train.start import resume_run, start_run
from aha.types import UserError

SMALL = (
    "evaluation.n=0", "grpo.prompts_per_step=3", "generation.num_generations=4",
    "generation.max_completion_length=40", "logging.report_to=[]", "train.save_steps=3",
    "optimizer.learning_rate=1e-3", "optimizer.lr_scheduler_type=constant", "grpo.beta=0.1",
    "grpo.reference_reset_steps=2",
)  # fmt: skip


def kl(run: RunDirectory) -> list[float]:
    return [record["kl"] for record in run.metrics()]


def test_the_reference_is_reset_and_resumes_exactly(tmp_path: Path) -> None:
    whole = start_run(load_recipe("countdown-tiny", [*SMALL, "train.max_steps=6"]), tmp_path / "a")
    # In steps 1, 3 and 5 the policy is its own reference.
    assert all(value < 1e-6 for value in kl(whole)[::2])
    assert all(value > 1e-5 for value in kl(whole)[1::2])
    start_run(load_recipe("countdown-tiny", [*SMALL, "train.max_steps=3"]), tmp_path / "b")
    parts = resume_run(tmp_path / "b", ["train.max_steps=6"], allow_change=True)
    assert kl(parts) == kl(whole)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["grpo.beta=0"], "reference_reset_steps is 2; without beta it is 0"),
        (["lora.r=4"], "allowed with lora is 0"),
    ],
)
def test_a_reset_needs_a_reference_of_its_own(changes: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_recipe("countdown-tiny", [*SMALL, *changes])
