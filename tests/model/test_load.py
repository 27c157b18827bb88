from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    GraniteConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    SeedOssConfig,
)

import aha.model.load as policy
from aha.model.load import (
    choose_autocast,
    choose_device,
    choose_dtype,
    find_model,
    load_model,
    load_tokenizer,
)
from aha.recipe import load_recipe
from aha.sections import ModelSection
from aha.tiny import weights_path
from aha.train.start import start_run
from aha.types import UserError


def test_the_embedded_model_is_found_and_loads() -> None:
    assert find_model("aha-tiny") == str(weights_path())
    model = load_model(ModelSection())
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert model.dtype == torch.float32
    assert load_tokenizer(ModelSection()).eos_token == "<eos>"


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/no/where", "a/b/c", "~/no-such-model"])
def test_a_path_that_does_not_exist_is_said_at_once(name: str) -> None:
    with pytest.raises(UserError) as caught:
        find_model(name)
    assert f"model.name: {name!r} does not exist" in str(caught.value)


def test_a_folder_without_a_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        find_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="could not be loaded"):
        load_model(ModelSection(name=str(tmp_path)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"model\.device is 'cuda'"):
        choose_device(ModelSection(device="cuda"))
    assert choose_device(ModelSection()).type == "cpu"


def test_an_apple_gpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ModelSection(device="mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"model\.device is 'mps', but PyTorch sees no Apple GPU"):
        choose_device(asked)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(asked).type == "mps"
    assert choose_dtype(asked, frozen=True) == torch.float32
    assert choose_autocast(asked) is None
    assert choose_device(ModelSection()).type == "cpu"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            ModelSection(device="cpu", dtype="bfloat16"),
            r"model\.dtype is 'bfloat16'.* 40\.0 times .*--set model\.dtype=float32\.$",
        ),
        (
            ModelSection(device="cpu", autocast="bfloat16"),
            r"model\.autocast is 'bfloat16'.* 40\.0 times .*--set model\.autocast=none\.$",
        ),
    ],
)
def test_bfloat16_that_is_slower_is_refused(
    section: ModelSection, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("countdown-tiny").model_copy(update={"model": section})
    monkeypatch.setattr(policy, "bfloat16_slowdown", lambda: 40.0)
    with pytest.raises(UserError, match=words):
        start_run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    policy.require_fast_bfloat16(ModelSection(device="cpu"))
    monkeypatch.setattr(policy, "bfloat16_slowdown", lambda: 0.4)
    policy.require_fast_bfloat16(section)


def test_the_slowdown_is_a_ratio_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    # Products in float32 take 1, those in bfloat16 7; the first of each is slow.
    spent = [100.0, 100.0] + [1.0, 7.0] * 5
    clock = iter([x for length in spent for x in (0.0, length)])
    monkeypatch.undo()
    monkeypatch.setattr(policy.time, "perf_counter", lambda: next(clock))
    assert policy.bfloat16_slowdown(size=2) == 7.0


def test_weights_are_float32_unless_asked_otherwise() -> None:
    assert choose_dtype(ModelSection()) == torch.float32
    assert choose_dtype(ModelSection(dtype="bfloat16")) == torch.bfloat16


SIZES = {"vocab_size": 224, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
DROPPING: dict[str, Callable[[], PreTrainedConfig]] = {
    "granite": lambda: GraniteConfig(**SIZES, intermediate_size=48, attention_dropout=0.5),
    "seed_oss": lambda: SeedOssConfig(
        **SIZES, intermediate_size=48, num_key_value_heads=2, head_dim=16,
        attention_dropout=0.5, residual_dropout=0.5,
    ),
    "opt": lambda: OPTConfig(
        **SIZES, ffn_dim=48, word_embed_proj_dim=32, dropout=0.5, attention_dropout=0.5,
        layerdrop=0.5,
    ),
    # Reads its configuration in every forward.
    "falcon": lambda: FalconConfig(**SIZES, hidden_dropout=0.5, attention_dropout=0.5),
    # Has modules for it.
    "gpt2": lambda: GPT2Config(vocab_size=224, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPING)
def test_training_drops_nothing_out(
    name: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(1)
    untouched = AutoModelForCausalLM.from_config(DROPPING[name]())
    untouched.save_pretrained(tmp_path)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert not torch.equal(untouched.train()(ids).logits, untouched(ids).logits)
        model = load_model(ModelSection(name=str(tmp_path)))
        written = model.eval()(ids).logits
        model.train()
        assert torch.equal(model(ids).logits, model(ids).logits)
        assert torch.allclose(model(ids).logits, written, atol=1e-5)
