"""The shipped model: loads anywhere, is what its card says, and is as good as promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aha.tiny import MODULAR_NAME, TINY_NAME, weights_path
from aha.tiny.build import card_text, measure
from aha.tiny.traces import LESSONS, tiny_tokenizer

TEXTS = {
    TINY_NAME: "Make 24 from 3 7 12 . <think> 7 - 3 = 4 , 12 * 4 = 48 , not 24 . Wait, </think>",
    MODULAR_NAME: "Solve 5 * x + 2 = 4 mod 7 . <think> 5 * 1 = 5 , 5 + 2 = 7 , 7 - 7 = 0 , not 4 .",
}


@pytest.fixture(scope="module", params=LESSONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str) -> Path:
    return weights_path(name)


def test_it_is_small_and_holds_no_pickle(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


def test_auto_classes_give_the_same_ids_and_text(name: str, folder: Path) -> None:
    loaded, tokenizer = AutoTokenizer.from_pretrained(folder), tiny_tokenizer(LESSONS[name].words)
    text = TEXTS[name]
    assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.eos_token_id == tokenizer.eos_token_id == 1
    assert loaded.pad_token_id == tokenizer.pad_token_id == 0


def test_a_saved_copy_gives_the_same_ids(name: str, folder: Path, tmp_path: Path) -> None:
    text = TEXTS[name]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(again.encode(text)) == text


def test_it_generates_through_transformers(name: str, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS[name].split("<think>")[0] + "<think>", return_tensors="pt")
    torch.manual_seed(0)
    output = model.generate(**inputs, max_new_tokens=200, do_sample=True)[0].tolist()
    text = tokenizer.decode(output)
    assert "</think> <answer>" in text
    assert output[-1] == tokenizer.eos_token_id


@pytest.fixture(scope="module")
def figures(name: str, folder: Path) -> dict[str, float]:
    return measure(LESSONS[name], folder, problems=500)


def test_its_sums_and_checks_are_right(figures: dict[str, float]) -> None:
    assert figures["sums_right"] >= 0.98
    assert figures["checks_right"] >= 0.99


def test_the_base_leaves_room_to_learn(figures: dict[str, float]) -> None:
    assert 0.12 <= figures["accuracy"] <= 0.25


def test_the_shipped_card_is_written_from_the_shipped_figures(name: str, folder: Path) -> None:
    stated = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == card_text(name, stated)


def test_the_card_states_what_is_measured_again_here(name: str, folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    stated = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    measured = measure(LESSONS[name], folder, problems=stated["problems"])
    assert measured["accuracy"] == pytest.approx(stated["accuracy"], abs=0.01)
    assert f"{stated['accuracy']:.1%}" in card
