from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import LlamaConfig

from aha.doctor.hardware import Disk, Gpu, Machine
from aha.doctor.preview import measured
from aha.model.sizes import Shape

GIB = 2**30

# Vocabulary 100, 2 layers of 32 channels, 4 heads and 2 KV heads of 16, units of 48.
SMALL = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48, "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def small_shape() -> Shape:
    return measured(LlamaConfig(**SMALL, tie_word_embeddings=True), "small", "a test")


@pytest.fixture
def laptop() -> Machine:
    """A machine without a GPU where nothing is amiss."""
    return Machine(
        system="Linux x86_64",
        python="3.11.7",
        processor="A Processor",
        cores=8,
        threads=8,
        cpu_bfloat16=True,
        memory_total=32 * GIB,
        memory_free=20 * GIB,
        cuda_build=None,
        driver=None,
        driver_gpus=(),
        gpus=(),
        sdpa=("flash", "math"),
        flash_attn=None,
        kernels="avx2",
        kernels_why="the best this processor has",
        disks=(Disk("runs", "/runs", 100 * GIB), Disk("hub cache", "/cache", 100 * GIB)),
    )


@pytest.fixture
def workstation(laptop: Machine) -> Machine:
    """The same with a GPU of 24 GiB."""
    gpu = Gpu("A Card", 24 * GIB, 23 * GIB, "8.9", bfloat16=True)
    return with_(laptop, cuda_build="12.8", driver="570.1", driver_gpus=("A Card",), gpus=(gpu,))


def with_(facts: Machine, **changes: Any) -> Machine:
    return replace(facts, **changes)
