"""The GPU path on fake CUDA tensors, which have devices, types and shapes but no values.

`make test-fake-gpu` installs a PyTorch with CUDA; no GPU is needed. Wrong devices, types and
shapes are errors. Whatever would make the host wait for the GPU is recorded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from aha.grpo.logprobs import LogprobModel, Reference, WithoutAdapters
from aha.grpo.losses import LossSettings
from aha.grpo.update import UpdateSettings, UpdateStats, update
from aha.model.llama import blocks_of
from aha.model.lora import add_adapters
from aha.rollout.base import SamplingSettings
from aha.rollout.cuda import STRIDE
from aha.rollout.engine import NativeEngine, _Rollout
from aha.rollout.sampler import uniforms
from aha.sections import LoraSection, OptimizerSection
from aha.train.optimizer import build_optimizer
from aha.types import Completion, Group, Problem, Prompt

BFLOAT16 = torch.bfloat16
ROWS, TOKENS = 8, 24
_MADE_UP: dict[str, Callable[[torch.Tensor], Any]] = {
    "item": lambda tensor: 0.0,
    "tolist": lambda tensor: [0.0] * len(tensor),
    "__bool__": lambda tensor: True,
    "__int__": lambda tensor: 0,
}


class Waits(TorchFunctionMode):
    """Gives made-up values to those who ask for a fake tensor's, and notes who asked."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("cpu", *_MADE_UP) and isinstance(args[0], FakeTensor):
            if args[0].is_cuda:
                self.waited.append(sys._getframe(1).f_code.co_name)
            if name in _MADE_UP:
                return _MADE_UP[name](args[0])
        return func(*args, **(kwargs or {}))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A machine with a fake GPU; the functions that waited for it, in order."""
    if "libcuda" not in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("it needs a PyTorch with CUDA and a made-up driver: make test-fake-gpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    # A copy of memory that is not there would end the process.
    monkeypatch.setattr(FakeTensor, "__deepcopy__", lambda tensor, memo: tensor.clone())
    # Else a new tensor would be made on the real card first.
    monkeypatch.setattr(FakeTensorMode, "avoid_device_init", True)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fake.cache_enabled = False
    with fake, Waits() as mode:
        yield mode.waited


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch, waits: list[str]) -> list[int]:
    """Stand-ins for CUDA graphs; for each capture, how often the host waited inside."""
    counts: list[int] = []

    class Graph:
        def capture_begin(self, pool: object) -> None:
            self.before = len(waits)

        def capture_end(self) -> None:
            counts.append(len(waits) - self.before)

        def replay(self) -> None:
            pass

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return counts


def fake_model(dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaForCausalLM:
    settings = {
        "vocab_size": 224, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16, "eos_token_id": 1,
        "pad_token_id": 0, "max_position_embeddings": 512, **changes,
    }  # fmt: skip
    with torch.device("cuda:0"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**settings), dtype=dtype)


def adapted() -> LlamaForCausalLM:
    model = fake_model()
    # Fake parameters cannot be moved, and these are made where they belong.
    with pytest.MonkeyPatch.context() as patch, torch.device("cuda"):
        patch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
        add_adapters(model, LoraSection(r=4), "base", seed=0)
    return model


def groups(count: int = 3) -> list[Group]:
    """Groups of four completions with advantages; log-probabilities of no model."""
    prompt = Prompt("2 + 2", "", (5, 6, 7))
    return [
        Group(
            Problem("countdown", "2 + 2", {}),
            prompt,
            tuple(Completion("4", (9, 10 + i, 1), (-1.0, -1.0, -1.0), "stop") for i in range(4)),
            (),
            (1.0, -1.0, 0.5, -0.5),
        )
        for _ in range(count)
    ]


def trained(
    model: LlamaForCausalLM,
    dtype: torch.dtype | None,
    reference: Reference | None = None,
    fused: bool = True,
    state: str = "device",
    **changes: Any,
) -> UpdateStats:
    policy = LogprobModel(model, blocks_of(model) if fused else None, autocast=dtype, **changes)
    loss = LossSettings("dapo", 0.2, 0.28, 0.1 if reference else 0.0, TOKENS)
    settings = UpdateSettings(loss, 1.0, 2, 1.0, 20, False)
    optimizer = build_optimizer(model, OptimizerSection(state=state))
    return update(policy, reference, optimizer, groups(), settings)


@pytest.mark.parametrize("dtype", [None, BFLOAT16])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model", [fake_model, adapted])
def test_rollouts_never_wait_between_strides(
    model: Callable[..., LlamaForCausalLM],
    tied: bool,
    dtype: torch.dtype | None,
    tokenizer: PreTrainedTokenizerFast,
    waits: list[str],
    captures: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = model(tie_word_embeddings=tied) if model is fake_model else model()
    engine = NativeEngine(policy, tokenizer, blocks_of(policy), dtype=dtype or torch.float32)
    monkeypatch.setattr(_Rollout, "_leave", lambda self: None)  # it waits: see its comment
    with torch.no_grad():
        rollout = _Rollout(
            engine._new_decoder(ROWS, 3 + TOKENS),
            [(5, 6, 7), (5, 6)],
            ROWS // 2,
            2,
            SamplingSettings(TOKENS),
            torch.full((ROWS,), TOKENS),
            uniforms(0, range(ROWS), TOKENS),
            engine._end_ids,
            None,
        )
        steps = rollout.steps()
        for _ in range(STRIDE):
            next(steps)
        assert rollout._token_R.device.type == "cuda"
        assert rollout._steps[-1][2].dtype == torch.float32
    assert captures == [0]
    assert waits == []


@pytest.mark.parametrize("dtype", [None, BFLOAT16])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_an_update_waits_a_fixed_number_of_times(
    fused: bool, recompute: bool, dtype: torch.dtype | None, waits: list[str]
) -> None:
    """Two updates of several microbatches: the loss and the norm of each, then all at once."""
    model = fake_model()
    if recompute and not fused:
        pytest.skip("transformers recomputes then, not aha")
    stats = trained(model, dtype, LogprobModel(fake_model(), None, autocast=dtype), fused,
                    recompute=recompute)  # fmt: skip
    assert stats.trained_rows == 12
    assert waits == ["accumulate_gradients", "update"] * 2 + ["_on_host"] * 2


@pytest.mark.parametrize("dtype", [None, BFLOAT16])
def test_adapters_are_trained_beside_their_reference(
    dtype: torch.dtype | None, waits: list[str]
) -> None:
    model = adapted()
    policy = LogprobModel(model, blocks_of(model), autocast=dtype)
    trained(model, dtype, WithoutAdapters(policy))
    assert waits.count("accumulate_gradients") == 2


def test_all_weights_in_bfloat16(waits: list[str]) -> None:
    model = fake_model(dtype=BFLOAT16)
    assert model.lm_head.weight.dtype == BFLOAT16
    trained(model, None)
    assert set(waits) == {"accumulate_gradients", "update", "_on_host"}


def test_the_state_in_the_hosts_memory(waits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients arrive while another parameter is updated: nothing waits but their events."""

    class Event:
        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            waits.append("event")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    model = fake_model()
    optimizer = build_optimizer(model, OptimizerSection(state="cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert waits == ["event"] * len(list(model.parameters()))
    moments = [moment for state in optimizer.state.values() for moment in state.values()]
    assert {moment.device.type for moment in moments} == {"cpu"}
