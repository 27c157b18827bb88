from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aha.recipe import DEFAULT_RECIPE, Recipe, dump_recipe, load_recipe, shipped_recipes
from aha.sections import GrpoSection
from aha.types import UserError


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_parses_and_is_named_like_its_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_a_dumped_recipe_loads_to_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(DEFAULT_RECIPE, ["train.max_steps=7"])
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(str(path)) == recipe


def test_set_reads_numbers_lists_and_exponents() -> None:
    recipe = load_recipe(
        DEFAULT_RECIPE,
        ["optimizer.learning_rate=1e-4", "task.sizes=[3, 4]", "grpo.epsilon_high=null"],
    )
    assert recipe.optimizer.learning_rate == 1e-4
    assert recipe.task.sizes == (3, 4)
    assert recipe.grpo.epsilon_high is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_step=3", ["'train.max_step'", "not a known key", "max_steps"]),
        ("nope=1", ["'nope'", "not a known key", "generation"]),
        ("rewards=[{name: format, wieght: 2}]", ["wieght", "name, weight, options"]),
        ("train.max_steps=abc", ["train.max_steps", "'abc'", "integer"]),
        ("train.max_steps=0", ["train.max_steps", "0", "greater than or equal to 1"]),
        ("grpo.loss_type=ppo", ["grpo.loss_type", "'ppo'", "'dr_grpo'"]),
        ("task.number_min=50", ["number_min is 50", "at most number_max, 20"]),
        ("task.sizes=[1]", ["sizes is [1]", "2 to 8"]),
        ("generation.num_generations=1", ["num_generations", "greater than or equal to 2"]),
        ("generation.temperature=.inf", ["temperature", "finite"]),
        ("rewards=[]", ["rewards is []; it should not be empty"]),
        ("rewards={}", ["rewards is {}; it should be a list"]),
        ("train=null", ["train is None; it should be a mapping of keys"]),
        ("train={1: 2}", ["train.1 is 1; it should have a text as its key"]),
        ("train.max_steps=1e99", ["it should be a smaller number"]),
        ("train.max_steps=2020-13-45", ["not a YAML value"]),
        (f"train.max_steps={'[' * 3000}", ["not a YAML value"]),
        ("rewards=[{name: a}, {name: a}]", ["rewards", "once"]),
        ("train=3", ["train", "3"]),
        ("train", ["--set 'train'", "key=value"]),
        ("name.deeper=1", ["no keys below"]),
        ("name=../up", ["name", "../up"]),
        ("train.max_steps=[", ["not a YAML value"]),
    ],
)
def test_a_mistake_is_one_sentence(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(DEFAULT_RECIPE, [override])
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["End with #### and 7", "#### 7", "  a #b "])
def test_set_reads_a_hash_as_text_and_not_as_a_comment(text: str) -> None:
    assert load_recipe(DEFAULT_RECIPE, [f"prompt.system={text}"]).prompt.system == text.strip()
    with pytest.raises(UserError, match=r"'5 #6'"):
        load_recipe(DEFAULT_RECIPE, ["train.max_steps=5 #6"])


@pytest.mark.parametrize(
    "content",
    ["- 1\n", "a: [\n", "", "\tx: 1\n", "a: 2020-13-45\n", f"a: {'[' * 3000}{']' * 3000}"],
)
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_recipe(str(path))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match="countdown-tiny"):
        load_recipe("countdown-huge")


def test_yaml_can_not_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(str(path))


def test_the_defaults_alone_are_a_recipe() -> None:
    assert yaml.safe_load(dump_recipe(Recipe(name="x")))["name"] == "x"


def test_a_number_in_quotes_is_a_text() -> None:
    assert load_recipe("countdown-tiny", ['model.name="123"']).model.name == "123"
    assert load_recipe("countdown-tiny", ["optimizer.learning_rate= 1e-4 "]) == load_recipe(
        "countdown-tiny", ["optimizer.learning_rate=0.0001"]
    )


def test_a_long_value_is_shown_without_its_middle() -> None:
    with pytest.raises(UserError) as caught:
        load_recipe("countdown-tiny", [f"train.seed={'x' * 10_000}"])
    assert len(str(caught.value)) < 400
    assert "train.seed is 'xxxx" in str(caught.value)


def test_an_infinite_option_survives_being_written_out(tmp_path: Path) -> None:
    recipe = load_recipe("countdown-tiny", ["rewards=[{name: 'm:f', options: {x: .inf}}]"])
    path = tmp_path / "again.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(str(path)) == recipe
    assert load_recipe(str(path)).rewards[0].options == {"x": float("inf")}


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(UserError, match=r"recipe 'x+' cannot be read: .*too long"):
        load_recipe("x" * 300)


@pytest.mark.parametrize("name", shipped_recipes())
def test_no_shipped_recipe_sets_what_has_no_effect(name: str) -> None:
    """With one update a batch the ratio is 1, so no clip range is ever reached."""
    assert load_recipe(name).grpo.num_iterations == 1
    assert not {"epsilon", "epsilon_high"} & set(yaml.safe_load(shipped_recipes()[name])["grpo"])


@pytest.mark.parametrize("key", ["epsilon", "epsilon_high"])
def test_the_clip_range_says_when_it_has_an_effect(key: str) -> None:
    assert "num_iterations" in (GrpoSection.model_fields[key].description or "")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("max_steps=3", "train.max_steps"),
        ("max_step=3", "train.max_steps"),
        ("train.max_step=3", "train.max_steps"),
        ("model.learning_rate=3", "optimizer.learning_rate"),
        ("optim.learning_rate=3", "optimizer"),
        ("lora={rank: 3, aplha: 4}", None),
        ("lora={aplha: 4}", "lora.alpha"),
        ("trl={vlm: 'off'}", "trl.vllm"),
        ("rewards=[{name: format, wieght: 2}]", "rewards.0.weight"),
        ("prompt.examples=[{problem: a, completions: b}]", "prompt.examples.0.completion"),
        ("grpo.loss_type=dr-grpo", "dr_grpo"),
        ("task.name=GSM8k", "gsm8k"),
        ("task.name=count-down", "countdown"),
        ("logging.report_to=[tensorbord]", "tensorboard"),
        ("lora.target_modules=all_linear", "all-linear"),
        ("zzz=1", None),
    ],
)
def test_a_near_name_is_suggested(override: str, meant: str | None) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(DEFAULT_RECIPE, [override])
    message = str(caught.value)
    if meant is None:
        assert "Did you mean" not in message
    else:
        assert message.endswith(f". Did you mean {meant!r}?"), message


def test_a_near_key_of_a_file_is_suggested(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ngeneration:\n  num_generation: 4\n")
    with pytest.raises(UserError, match=r"Did you mean 'generation\.num_generations'\?$"):
        load_recipe(str(path))


def test_a_near_recipe_is_suggested() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'gsm8k-r1-1\.5b'\?$"):
        load_recipe("gsm8k-r1-1.5")


def test_another_task_leaves_out_the_keys_of_the_recipes_own(tmp_path: Path) -> None:
    path = tmp_path / "easy.yaml"
    path.write_text(dump_recipe(load_recipe("word-problems-smollm2", ["task.steps=[1]"])))
    assert load_recipe(str(path)).task.steps == (1,)
    assert load_recipe(str(path), ["task.name=word-problems"]).task.steps == (1,)
    other = load_recipe(str(path), ["task.source=a.jsonl", "task.name=custom"])
    assert (other.task.name, other.task.steps) == ("custom", (1, 2, 3))
    with pytest.raises(UserError, match=r"task\.steps is \(1,\); it goes with"):
        load_recipe(str(path), ["task.steps=[1]", "task.name=custom"])


@pytest.mark.parametrize("style", ["boxed", "hash"])
def test_countdown_refuses_a_layout_that_it_cannot_read(style: str) -> None:
    with pytest.raises(UserError, match=f"prompt.style is '{style}'; task 'countdown' reads"):
        load_recipe("mini-r1-1.5b", [f"prompt.style={style}"])
