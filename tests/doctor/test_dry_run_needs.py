"""`--dry-run` says parameters and memory by the doctor's counts."""

from __future__ import annotations

from typing import Any

import pytest

from aha.doctor import software
from aha.doctor.preview import describe
from aha.recipe import dump_recipe, load_recipe, shipped_recipes
from aha.types import UserError


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


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub does not answer, and nothing of it is in a cache."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr(
        software, "look_at_hub", lambda offline: software.Hub("a.hub", "", "", "timed out")
    )


FROM_THE_HUB = [n for n in shipped_recipes() if "/" in load_recipe(n).model.name]


@pytest.mark.parametrize("name", FROM_THE_HUB)
def test_without_a_network_it_says_what_it_can(name: str, no_network: None) -> None:
    recipe = load_recipe(name, ["model.device=cpu"])
    text = describe(recipe)
    assert text.startswith(dump_recipe(recipe))
    assert " M parameters in float32 on cpu: " in text
    assert "tokens without their prompts." in text
    prompt, problems = text.splitlines()[-2:]
    assert prompt.startswith(f"not checked: the first prompt; model.name: '{recipe.model.name}'")
    assert (
        problems == "not checked: the problems; a.hub, which has them, does not answer: timed out."
    )
    # 1.54 B parameters: weights, gradients and two moments in float32.
    assert name != "gsm8k-r1-1.5b" or "1,543.71 M parameters in float32 on cpu: 23.00 GiB" in text


def test_of_an_unknown_model_no_memory_is_said(no_network: None) -> None:
    text = describe(load_recipe("countdown-tiny", ["model.name=no-one/nothing"]))
    assert "first problem: {'target': 38" in text
    assert "M parameters" not in text
    assert "not checked: memory; model.name: 'no-one/nothing'" in text


def test_without_a_network_a_wrong_name_is_still_a_mistake(no_network: None) -> None:
    with pytest.raises(UserError, match="'nowhere' does not exist"):
        describe(load_recipe("countdown-tiny", ["model.name=nowhere"]))
