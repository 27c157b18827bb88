"""The estimate follows its roofline, and its question is checked."""

from __future__ import annotations

from typing import Any

import pytest

from aha.doctor.diagnosis import diagnose
from aha.doctor.estimate import (
    BANDWIDTH_SHARE,
    CARDS,
    LAYER_S,
    TRAINING_SHARE,
    Estimate,
    card_of,
    estimate,
)
from aha.doctor.preview import public_shape
from aha.model.sizes import Shape
from aha.recipe import load_recipe
from aha.types import UserError


def shape(size: str = "1.5") -> Shape:
    found = public_shape(f"Qwen/Qwen2.5-{size}B")
    assert found is not None
    return found


def of(card: str = "h100", *changes: str, **about: Any) -> Estimate:
    recipe = load_recipe("mini-r1-1.5b", ["evaluation.n=0", "grpo.beta=0.0", *changes])
    return estimate(recipe, shape(), card, 200, **about)


def test_by_hand() -> None:
    changes = (
        "grpo.prompts_per_step=1", "generation.num_generations=2", "train.max_steps=10",
        "generation.max_completion_length=100", "train.gradient_checkpointing=false",
    )  # fmt: skip
    found = of("h100", *changes, mean_length=100.0, price=3.0)
    counts, widths = shape().counts.parameters, shape().widths
    speed = TRAINING_SHARE * 989e12
    cache = 2 * (200 + 50) * 2 * widths.layers * widths.kv_heads * widths.head_dim * 2
    token = (2 * counts + cache) / (BANDWIDTH_SHARE * 3350e9) + widths.layers * LAYER_S["graphs"]
    # All rows are as long as the limit, so the longest is too.
    assert found.rollout_s == pytest.approx(100 * token + 2 * counts * 200 / speed)
    assert found.training_s == pytest.approx(6 * counts * (2 * 100 + 200) / speed)
    assert found.hours == pytest.approx(10 * found.step_s / 3600)
    assert found.cost == pytest.approx(3 * found.hours)


def test_what_costs_more_takes_longer() -> None:
    plain = of()
    assert of("l4").step_s > of("4090").step_s > of("a100-80").step_s > plain.step_s
    assert of("h100", "train.gradient_checkpointing=true").training_s >= plain.training_s
    assert of("h100", "grpo.beta=0.01").training_s > plain.training_s
    assert of("h100", "optimizer.state=cpu").other_s > plain.other_s
    assert of("h100", "engine=trl").rollout_s > 3 * plain.rollout_s
    assert of("h100", "evaluation.n=100").hours > plain.hours
    assert of(mean_length=100.0).step_s < plain.step_s
    # Two cards write and train half each; exchanging the gradients costs something.
    two = of(gpus=2)
    assert two.training_s == pytest.approx(plain.training_s / 2)
    assert two.other_s > plain.other_s


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"device": "h10"}, "--device is 'h10'.*Did you mean"),
        ({"timed": True, "device": "cuda"}, "--estimate needs --device with a card"),
        ({"timed": True}, "--estimate needs --device with a card"),
        ({"device": "h100", "price": 2.0}, "go with --estimate"),
    ],
)
def test_a_wrong_question_is_one_sentence(about: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        diagnose("mini-r1-3b", offline=True, **about)


def test_a_card_brings_its_memory() -> None:
    about: dict[str, Any] = {"device": "a100-80", "gpus": 2, "timed": True, "offline": True}
    report = diagnose("mini-r1-3b", ["engine=trl"], **about)
    assert report.recipe is not None
    assert report.recipe.subject.place.limit == int(CARDS["a100-80"].gib * 2**30)
    assert "estimate for 2 x a100-80, not measured" in report.as_text()
    assert '"step_s"' in report.as_json()
    assert card_of("l4").gib < 24
