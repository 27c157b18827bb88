from __future__ import annotations

import pytest

from aha.recipe import load_recipe
from aha.runs import RunDirectory
from aha.train.start import start_run

SHORT = ["train.max_steps=1", "evaluation.n=12", "logging.report_to=[]",
         "grpo.prompts_per_step=2", "generation.num_generations=2"]  # fmt: skip


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of one step of the embedded model; only read."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    return start_run(load_recipe("countdown-tiny", SHORT), folder)
