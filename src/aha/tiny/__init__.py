"""The embedded models, small enough to ship and to train on a laptop.

`traces` has the texts they were taught, `build` trains and measures them. `weights_path` finds
their weights and tokenizers without importing torch.
"""

from __future__ import annotations

from pathlib import Path

# The `model.name`s of recipes that train the models shipped in this package.
TINY_NAME, MODULAR_NAME = "aha-tiny", "aha-tiny-modular"
# The recipe of each model, which says how to ask it.
TINY_RECIPES = {TINY_NAME: "countdown-tiny", MODULAR_NAME: "modular-tiny"}
_FOLDERS = {TINY_NAME: "weights", MODULAR_NAME: "weights-modular"}


def weights_path(name: str = TINY_NAME) -> Path:
    """The folder of a shipped model, in Hugging Face format."""
    return Path(__file__).parent / _FOLDERS[name]
