"""The embedded model: small enough to ship and to train on a laptop, honest enough to learn from.

`traces` writes the texts it was taught, `tokenizer` its vocabulary, `build` trains it.
Its weights are in `weights/`; `weights_path()` finds them without importing torch.
"""

from __future__ import annotations

from pathlib import Path

# What a recipe writes as `model.name` to mean the model shipped in this package.
TINY_NAME = "aha-tiny"


def weights_path() -> Path:
    """The folder of the shipped model, in Hugging Face format."""
    return Path(__file__).parent / "weights"
