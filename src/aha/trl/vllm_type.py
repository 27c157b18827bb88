"""The type of weights in which vLLM samples for TRL.

TRL leaves it to vLLM, which takes a half-precision type for weights that are stored in float32. A
policy that is trained in float32 would be scored at one distribution and drawn from another. TRL
has no setting for it where vLLM shares the trainer's GPUs; a server of its own has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from trl.generation import vllm_generation


@contextmanager
def vllm_in(dtype: torch.dtype) -> Iterator[None]:
    """While inside, the vLLM that TRL starts in this process has weights of this type."""
    started = getattr(vllm_generation, "LLM", None)
    if started is None:  # vLLM is not installed
        yield
        return
    vllm_generation.LLM = partial(started, dtype=str(dtype).removeprefix("torch."))
    try:
        yield
    finally:
        vllm_generation.LLM = started
