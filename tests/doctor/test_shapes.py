from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, MambaConfig, T5Config

from aha.doctor.preview import measured, public_shape, shape_of
from aha.model.sizes import Shape, adapter_parameters, weights_bytes
from aha.recipe import load_recipe, shipped_recipes
from aha.sections import LoraSection, ModelSection
from aha.types import UserError

# By hand: 32 x 64 queries, twice 32 x 32 keys and values, 64 x 32 outputs.
ATTENTION = 2048 + 1024 + 1024 + 2048
UNIT = 3 * 32 * 48
TABLE, NORMS = 100 * 32, 2 * 2 * 32 + 32


def test_parameters_counted_by_hand(small_shape: Shape) -> None:
    counts = small_shape.counts
    assert counts.parameters == TABLE + 2 * (ATTENTION + UNIT) + NORMS == 24_864
    assert sum(layer.parameters for layer in counts.linears) == 2 * (ATTENTION + UNIT)
    assert {layer.name: layer.count for layer in counts.linears} == dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 2
    )
    assert counts.fused
    assert small_shape.saved_item == 4


def test_an_untied_head_counts(small_shape: Shape) -> None:
    w = small_shape.widths
    config = LlamaConfig(
        vocab_size=w.vocabulary, hidden_size=w.hidden, num_hidden_layers=w.layers,
        num_attention_heads=w.heads, num_key_value_heads=w.kv_heads, head_dim=w.head_dim,
        intermediate_size=w.inner, tie_word_embeddings=False,
    )  # fmt: skip
    untied = measured(config, "untied", "a test").counts
    assert untied.parameters == small_shape.counts.parameters + TABLE
    assert untied.linears == small_shape.counts.linears


def test_adapters_counted_by_hand(small_shape: Shape) -> None:
    # r (inputs + outputs): q 96, k and v 64 each, o 96, gate, up and down 80 each; two layers.
    everywhere = 8 * 2 * (96 + 64 + 64 + 96 + 3 * 80)
    assert adapter_parameters(small_shape.counts, LoraSection(r=8)) == everywhere == 8_960
    some = LoraSection(r=8, target_modules=("q_proj", "v_proj"))
    assert adapter_parameters(small_shape.counts, some) == 8 * 2 * (96 + 64)
    assert adapter_parameters(small_shape.counts, None) == 0


def test_quantised_weights_by_hand(small_shape: Shape) -> None:
    linear, rest = 2 * (ATTENTION + UNIT), TABLE + NORMS
    assert weights_bytes(small_shape.counts, 4) == 4 * (linear + rest)
    assert weights_bytes(small_shape.counts, 4, "int8") == 4 * rest + linear
    nf4 = 4 * rest + linear * (0.5 + 1 / 64 + 4 / (64 * 256))
    assert weights_bytes(small_shape.counts, 4, "nf4") == int(nf4)


def test_a_model_without_fused_blocks() -> None:
    config = GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=100)
    shape = measured(config, "gpt2", "a test")
    assert not shape.counts.fused
    assert (shape.widths.layers, shape.widths.inner) == (2, 128)


@pytest.mark.parametrize("config", [MambaConfig(num_hidden_layers=1), T5Config(num_layers=1)])
def test_what_is_no_causal_model_of_attention_blocks(config: Any) -> None:
    with pytest.raises(UserError, match=r"model.name: 'other' is no causal language model"):
        measured(config, "other", "a test")


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As the model cards on huggingface.co/Qwen count them: 0.49, 1.54, 3.09 and 7.61 B.
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
    ],
)
def test_published_models_have_the_parameters_that_they_should(name: str, parameters: int) -> None:
    shape = public_shape(name)
    assert shape is not None
    assert shape.counts.parameters == parameters
    assert shape.saved_item == 2


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_has_a_shape_without_a_network(name: str) -> None:
    shape = shape_of(load_recipe(name).model, online=False)
    assert shape.counts.parameters > 500_000
    assert shape.counts.fused


def test_a_config_file(tmp_path: Path) -> None:
    file = tmp_path / "their.json"
    file.write_text(json.dumps({"model_type": "llama", "hidden_size": 32, "vocab_size": 100,
                                "num_hidden_layers": 1, "num_attention_heads": 4,
                                "intermediate_size": 48}))  # fmt: skip
    shape = shape_of(ModelSection(name="someone/something"), file, online=False)
    assert shape.widths.layers == 1
    assert shape.known_from == str(file)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("no-one/nothing", None, ["model.name", "'no-one/nothing'", "--config"]),
        ("a/b/c", None, ["model.name", "'a/b/c'", "hub name"]),
        ("aha-tiny", "nowhere.json", ["--config", "'nowhere.json'"]),
    ],
)
def test_a_model_that_is_not_to_be_had(name: str, config: str | None, words: list[str]) -> None:
    file = None if config is None else Path(config)
    with pytest.raises(UserError) as error:
        shape_of(ModelSection(name=name), file, online=False)
    assert all(word in str(error.value) for word in words)


def test_a_config_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    with pytest.raises(UserError, match=r"--config.*no usable configuration"):
        shape_of(ModelSection(), file, online=False)
