"""The embedded model, small enough to ship and to train on a laptop.

`traces` has the texts it was taught, `build` trains and measures it. Its weights and tokenizer are
in `weights/`; `weights_path()` finds them without importing torch.
"""

from __future__ import annotations

from pathlib import Path

# The `model.name` of a recipe that trains the model shipped in this package.
TINY_NAME = "aha-tiny"


def weights_path() -> Path:
    """The folder of the shipped model, in Hugging Face format."""
    return Path(__file__).parent / "weights"
