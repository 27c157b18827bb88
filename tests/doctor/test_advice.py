from __future__ import annotations

import pytest

from aha.doctor.advice import Advice, Option, advise, option
from aha.doctor.preview import Prompts, Subject, public_shape
from aha.recipe import load_recipe, with_overrides
from aha.train.memory import Place

GIB = 2**30


def subject(gib: float, device: str = "cuda", *changes: str) -> Subject:
    """Qwen2.5-1.5B as its GSM8K recipe trains it, with so much memory."""
    shape = public_shape("Qwen/Qwen2.5-1.5B")
    assert shape is not None
    place = Place(device, int(gib * GIB), GIB // 2)  # type: ignore[arg-type]
    return Subject(load_recipe("gsm8k-r1-1.5b", changes), shape, place, Prompts(200, True))


def settings(advice: Advice) -> list[str]:
    return [" ".join(option.settings) for option in advice.options]


def keys(option: Option) -> set[str]:
    return {setting.partition("=")[0] for setting in option.settings}


def test_enough_memory_needs_no_change() -> None:
    advice = advise(subject(80))
    assert advice.fits
    assert advice.recommended is advice.options[0]
    assert advice.recommended.settings == ()
    assert advice.largest is None


def test_the_table_has_each_setting_by_itself() -> None:
    advice = advise(subject(80, "cuda", "train.gradient_checkpointing=false"))
    found = settings(advice)
    assert found[0] == ""
    assert [text.partition("=")[0] for text in found[1:]] == [
        "train.tokens_per_microbatch", "train.gradient_checkpointing", "generation.max_rows",
        "optimizer.state", "model.dtype", "lora", "lora",
    ]  # fmt: skip
    assert found[-1] == "lora={} optimizer.learning_rate=3e-05 model.quantization=nf4"
    # Checkpointing that is on already is no option.
    assert not any("checkpointing" in text for text in settings(advise(subject(80))))


def test_what_changes_no_result_comes_first() -> None:
    large = ("train.gradient_checkpointing=false", "train.tokens_per_microbatch=40000")
    peak = option(subject(1000, "cpu", *large), ()).peak / GIB
    advice = advise(subject(0.95 * peak, "cpu", *large))
    assert not advice.fits
    assert advice.recommended is not None
    # Halving the microbatch once is enough, and with room.
    assert advice.recommended.settings == ("train.tokens_per_microbatch=20000",)
    assert advice.recommended.fit == "yes"


def test_settings_with_room_come_before_tight_ones() -> None:
    advice = advise(subject(27))
    pieces = {"train.tokens_per_microbatch", "generation.max_rows"}
    smaller = option(subject(27), ("train.tokens_per_microbatch=1000", "generation.max_rows=72"))
    assert keys(smaller) == pieces
    assert smaller.fit == "tight"
    assert advice.recommended is not None
    # On a GPU the CPU's memory can take the optimizer's state, and the results stay.
    assert advice.recommended.settings == ("optimizer.state=cpu",)


@pytest.mark.parametrize(("room", "fit"), [(1.2, "yes"), (1.05, "tight"), (0.99, "no")])
def test_a_fit_is_tight_within_a_tenth(room: float, fit: str) -> None:
    # On a CPU with so few tokens the budget does not follow the memory.
    changes = ("train.tokens_per_microbatch=700",)
    peak = option(subject(1000, "cpu", *changes), ()).peak
    assert option(subject(room * peak / GIB, "cpu", *changes), ()).fit == fit


def test_then_adapters_then_a_quantised_base() -> None:
    adapters = advise(subject(16)).recommended
    assert adapters is not None
    assert keys(adapters) >= {"lora"}
    assert "model.quantization" not in keys(adapters)
    # The recipe's 3e-6 is a rate for all weights; adapters want ten times as much.
    assert "optimizer.learning_rate=3e-05" in adapters.settings
    quantised = advise(subject(4)).recommended
    assert quantised is not None
    assert "model.quantization=nf4" in quantised.settings


@pytest.mark.parametrize("gib", [2, 3, 5, 8, 12, 20, 24, 28])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_recommendation_fits_and_stands_in_the_table(gib: int, device: str) -> None:
    about = subject(gib, device)
    advice = advise(about)
    if advice.recommended is None:
        assert advice.largest is not None
        assert 0 < advice.largest < about.shape.counts.parameters
        return
    assert advice.recommended in advice.options
    again = option(about, advice.recommended.settings)
    assert again == advice.recommended
    assert again.peak <= gib * GIB
    if not advice.fits and again.fit == "tight":
        lossless = [x for x in advice.options if "model.dtype" not in keys(x)]
        assert not any(found.fit == "yes" for found in lossless)
    # All weights in bfloat16 lose most updates: shown, never recommended.
    assert "model.dtype" not in keys(advice.recommended)


def test_settings_are_taken_by_the_command_line() -> None:
    about = subject(4)
    recommended = advise(about).recommended
    assert recommended is not None
    taken = load_recipe("gsm8k-r1-1.5b", recommended.settings)
    assert taken == with_overrides(about.recipe, recommended.settings)
    assert taken.lora is not None
