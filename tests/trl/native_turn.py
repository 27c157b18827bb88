"""`aha` with TRL's trainer writing what the native engine would write: `... COMMAND`."""

from __future__ import annotations

from typing import Any

from aha.cli.main import main
from aha.model.llama import blocks_of
from aha.rollout.base import rollout_seed
from aha.tasks.prompts import ask
from aha.train.state import build_engine, sampling_settings
from aha.trl.backend import own_forward
from aha.trl.trainer import RecipeTrainer


def native_turn(self: Any, prompt_ids: Any, images: Any, fields: Any, count: int) -> Any:
    """Every process writes the whole step, and keeps its own rows."""
    recipe, model = self.recipe, self.policy
    step = self.state.global_step // recipe.grpo.num_iterations + 1
    prompts = ask(self._data.stream.at(step), recipe, self._tokenizer)
    with own_forward(model):
        engine = build_engine(recipe, model, self._tokenizer, blocks_of(model))
        groups = engine.generate(
            prompts, count, sampling_settings(recipe), rollout_seed(recipe.train.seed, step)
        )
    rows = [list(c.token_ids) for group in groups for c in group]
    first = self.ranks.index * len(prompt_ids)
    asked = [list(prompt.token_ids) for prompt in prompts for _ in range(count)]
    assert prompt_ids == asked[first : first + len(prompt_ids)]
    return rows[first : first + len(prompt_ids)], None


if __name__ == "__main__":
    RecipeTrainer._generate_single_turn = native_turn  # type: ignore[method-assign]
    main()
