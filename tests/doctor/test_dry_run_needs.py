"""What `--dry-run` says of parameters and memory: the doctor's counts."""

from __future__ import annotations

import pytest

from aha.recipe import load_recipe
from aha.train.dry_run import describe


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((), ["0.72 M parameters in float32 on cpu: 0.01 GiB"]),
        # r = 16 on 6 layers' 7 projections.
        (("lora={}",), ["0.72 M parameters in float32 on cpu, 0.14 M of adapters beside them"]),
    ],
)
def test_needs(changes: tuple[str, ...], words: list[str]) -> None:
    text = describe(load_recipe("countdown-tiny", ["model.device=cpu", *changes]))
    assert all(word in text for word in words), text.splitlines()[-2:]
    assert "aha doctor" in text
