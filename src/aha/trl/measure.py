"""Held-out answers of TRL's policy, written by the native engine on the main process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aha.evaluate.evaluation import Evaluation, evaluate_held_out
from aha.model.llama import blocks_of
from aha.model.load import load_model
from aha.model.lora import can_fold_in, folded_copy
from aha.train.state import build_engine
from aha.trl.materials import Materials, loading_whole
from aha.trl.ranks import Ranks
from aha.trl.trainer import RecipeTrainer


def measure(
    materials: Materials,
    trainer: RecipeTrainer,
    ranks: Ranks,
    folder: Path,
    keep: Callable[[Evaluation], None],
    untrained: bool,
) -> None:
    """Call `keep` with the policy's evaluation on the main process; the others wait.

    No process holds the whole of a sharded policy: all write it to `folder`, and the main one
    reads it. An untrained one is loaded as the recipe names it.
    """
    recipe = materials.recipe

    def answers(model: Any) -> Evaluation:
        engine = build_engine(recipe, model, materials.tokenizer, blocks_of(model))
        return evaluate_held_out(recipe, engine, materials.tokenizer, materials.held_out)

    def keep_here() -> None:
        model = trainer.policy
        with own_forward(model):
            if recipe.lora is not None and model.device.type == "cpu" and can_fold_in(model):
                model = folded_copy(model)
            keep(answers(model))

    def keep_written() -> None:
        with loading_whole(trainer.args):
            model = load_model(recipe.model, None if untrained else str(folder))
        evaluation = answers(model)
        if torch.cuda.is_available():
            del model
            torch.cuda.empty_cache()
        keep(evaluation)

    if not trainer.is_sharded:
        ranks.on_main(keep_here)
        return
    if not untrained:
        ranks.together(lambda: trainer.save_model(str(folder)))
    ranks.on_main(keep_written)
    if ranks.is_main:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """While inside, the model has its class's methods: TRL and accelerate wrap the instance's."""
    theirs = {
        name: vars(model).pop(name) for name in ("forward", "generate") if name in vars(model)
    }
    try:
        yield
    finally:
        vars(model).update(theirs)
