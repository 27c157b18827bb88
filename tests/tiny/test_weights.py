"""The shipped model: loads anywhere, is what its card says, and is as good as promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from aha.tiny import weights_path
from aha.tiny.build import card_text, measure

FOLDER = weights_path()
TEXT = "Make 24 from 3 7 12 . <think> 7 - 3 = 4 , 12 * 4 = 48 , not 24 . Wait, </think>"


def test_it_is_small_and_holds_no_pickle() -> None:
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


def test_auto_classes_give_the_same_ids_and_text(tokenizer: PreTrainedTokenizerFast) -> None:
    loaded = AutoTokenizer.from_pretrained(FOLDER)
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert loaded.decode(loaded.encode(TEXT)) == TEXT
    assert loaded.eos_token_id == tokenizer.eos_token_id == 1
    assert loaded.pad_token_id == tokenizer.pad_token_id == 0


def test_a_saved_copy_gives_the_same_ids(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.decode(again.encode(TEXT)) == TEXT


def test_it_generates_through_transformers() -> None:
    model = AutoModelForCausalLM.from_pretrained(FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    inputs = tokenizer("Make 24 from 3 7 12 . <think>", return_tensors="pt")
    torch.manual_seed(0)
    output = model.generate(**inputs, max_new_tokens=200, do_sample=True)[0].tolist()
    text = tokenizer.decode(output)
    assert "</think> <answer>" in text
    assert output[-1] == tokenizer.eos_token_id


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    return measure(FOLDER, problems=500)


def test_its_sums_and_checks_are_right(figures: dict[str, float]) -> None:
    assert figures["sums_right"] >= 0.98
    assert figures["checks_right"] >= 0.99


def test_the_base_leaves_room_to_learn(figures: dict[str, float]) -> None:
    assert 0.15 <= figures["accuracy"] <= 0.25


def test_the_shipped_card_is_written_from_the_shipped_figures() -> None:
    stated = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card == card_text(stated)


def test_the_card_states_what_is_measured_again_here() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
    measured = measure(FOLDER, problems=stated["problems"])
    assert measured["accuracy"] == pytest.approx(stated["accuracy"], abs=0.01)
    assert f"{stated['accuracy']:.1%}" in card
