from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aha.sections import ModelSection
from aha.tiny import weights_path
from aha.train.policy import choose_device, choose_dtype, find_model, load_model, load_tokenizer
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


def test_weights_are_float32_unless_asked_otherwise() -> None:
    assert choose_dtype(ModelSection()) == torch.float32
    assert choose_dtype(ModelSection(dtype="bfloat16")) == torch.bfloat16
