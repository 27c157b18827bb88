from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recited import MakeSession, RecitingEngine, WordTokenizer
from transformers import PretrainedConfig

from aha.play.session import Player, Session, open_session
from aha.recipe import dump_recipe, load_recipe
from aha.tiny import weights_path
from aha.trained import Loaded


@pytest.fixture
def make_session() -> MakeSession:
    """Makes sessions of models that recite: `make_session(base=[text], trained=[text, text])`."""

    def make(overrides: Sequence[str] = (), limit: int = 240, **texts: Sequence[str]) -> Session:
        recipe = load_recipe("countdown-tiny", overrides)
        tokenizer, model = WordTokenizer(), SimpleNamespace(config=PretrainedConfig())
        players = [
            Player(name, recipe, _loaded(model, tokenizer, RecitingEngine(recited, tokenizer)))
            for name, recited in texts.items()
        ]
        return Session(tuple(players), recipe, limit)

    return make


def _loaded(model: Any, tokenizer: Any, engine: Any) -> Loaded:
    return Loaded(model, tokenizer, engine)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model as `aha play` needs it: a recipe, and weights (the base's)."""
    folder = tmp_path_factory.mktemp("play") / "runs" / "mine"
    checkpoint = folder / "checkpoints" / "step-000003"
    shutil.copytree(weights_path(), checkpoint)
    # What training would go on from; that it is there says that the folder is whole.
    (checkpoint / "trainer_state.pt").touch()
    (folder / "recipe.yaml").write_text(dump_recipe(load_recipe("countdown-tiny")))
    return folder


@pytest.fixture(scope="session")
def session(run_folder: Path) -> Session:
    """The embedded model beside that run."""
    return open_session(str(run_folder))
