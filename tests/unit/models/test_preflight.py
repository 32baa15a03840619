"""A base that cannot be loaded, and LoRA that finds no layer in it, are told before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lcia.assistants.tiny import BASES, TINY_BASE
from lcia.config.assistants import LlavaConfig, LoraConfig, TinyConfig
from lcia.config.language import CausalConfig, Seq2SeqConfig
from lcia.models.preflight import check_base, check_targets, model_folder
from lcia.types import InputError
from tests import checkpoints

EASYVQA = r".*language_model.*layers\.2\..*_proj"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_BASE, tmp_path / "model"))


def check(model: object, **lora: Any) -> None:
    check_base(LlavaConfig(kind="llava", model=str(model)), LoraConfig(**lora))


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize(
    "targets", [LoraConfig().target_modules, EASYVQA, "all-linear", ("q_proj",), ("fc1", "nothing")]
)
def test_what_peft_takes_is_taken(base: Any, targets: Any) -> None:
    check_base(TinyConfig(base=base), LoraConfig(target_modules=targets))


@pytest.mark.parametrize("targets", ["nothing", "q_proj", (), ("proj",), "model.language_model.layers", ".*layernorm"])
def test_what_matches_no_layer_is_refused_with_names_of_layers(targets: Any) -> None:
    with pytest.raises(InputError, match=r"matches no layer.*model\.language_model\.layers\.0\.mlp\.down_proj"):
        check_base(TinyConfig(), LoraConfig(target_modules=targets))


def test_every_layer_of_the_loaded_model_is_known_by_its_name() -> None:
    """Oracle: the modules of the model itself."""
    import torch
    from transformers import LlavaForConditionalGeneration

    loaded = LlavaForConditionalGeneration.from_pretrained(TINY_BASE)
    names = [name for name, module in loaded.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(names) > 20
    for name in set(names) - {"lm_head"}:
        check_base(TinyConfig(), LoraConfig(target_modules=(name,)))


@pytest.mark.parametrize(
    ("saved", "module"),
    [
        ("language_model.model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"),
        ("model.language_model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1", "model.vision_tower.encoder.layers.0.mlp.fc1"),
        ("language_model.lm_head", "language_model.lm_head"),
    ],
)
def test_names_of_older_checkpoints_are_those_of_the_modules_too(model: Path, saved: str, module: str) -> None:
    save_file({f"{saved}.weight": np.zeros((2, 2), np.float32)}, model / "model.safetensors")
    check(model, target_modules=(module,))


def test_the_layers_of_a_checkpoint_in_pieces_are_read_from_all_of_them(model: Path) -> None:
    (model / "model.safetensors").unlink()
    pieces = {"a.safetensors": "language_model.model.layers.0.mlp.up_proj.weight",
              "b.safetensors": "language_model.model.layers.1.mlp.up_proj.weight"}  # fmt: skip
    for file, name in pieces.items():
        save_file({name: np.zeros((2, 2), np.float32)}, model / file)
    index = {"weight_map": {name: file for file, name in pieces.items()}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    check(model, target_modules=r".*language_model\.layers\.1\..*")
    (model / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no b\.safetensors: its weights are incomplete"):
        check(model)


def test_pickled_weights_are_refused_with_the_way_to_safetensors(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin, which can run code .* save_pretrained"):
        check(model)


@pytest.mark.parametrize("name", ["/nope", "./nope", "models/deep/nope", "~/nope"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"assistant.model: there is no folder {name}"):
        check(name)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="there is no folder"):
        check(tmp_path / "file")


def test_a_hub_id_outside_the_cache_needs_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"neither a folder nor found on the hub.* `hf download someone/no-such-llava`"
    ):
        check("someone/no-such-llava")
    with pytest.raises(InputError, match="a hub id looks like ORGANISATION/NAME"):
        check("some one/no such")


def test_a_model_in_the_cache_of_the_hub_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = tmp_path / "models--someone--llava"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text("0" * 40)
    shutil.copytree(TINY_BASE, entry / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    check("someone/llava")
    with pytest.raises(InputError, match="matches no layer"):
        check("someone/llava", target_modules="nothing")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json: give the folder"),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "it is an adapter"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "qwen2_vl"}'), "model_type 'qwen2_vl'"),
        (lambda folder: (folder / "config.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "damaged or not a safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged or not a safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no model\.safetensors"),
    ],
)
def test_a_folder_that_is_not_a_llava_says_why(model: Path, change: Any, reason: str) -> None:
    change(model)
    with pytest.raises(InputError, match=reason):
        check(model)


def test_a_pattern_that_is_not_one_is_named() -> None:
    with pytest.raises(InputError, match=r"lora\.target_modules '\(' is not a regular expression"):
        check_targets("(", ["a"])


def test_the_key_that_names_a_model_is_in_the_error() -> None:
    with pytest.raises(InputError, match=r"grouping\.embedder\.model: there is no folder /nope"):
        model_folder("grouping.embedder.model", "/nope")


# Models of text alone ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A decoder alone, and an encoder with a decoder."""
    makers = {"causal": checkpoints.llama, "seq2seq": checkpoints.t5}
    return {kind: str(make(tmp_path_factory.mktemp(kind))) for kind, make in makers.items()}


def language(kind: str, model: str) -> CausalConfig | Seq2SeqConfig:
    return CausalConfig(kind="causal", model=model) if kind == "causal" else Seq2SeqConfig(kind="seq2seq", model=model)


@pytest.mark.parametrize(("kind", "named"), [("causal", "q_proj"), ("seq2seq", "SelfAttention.q")])
def test_a_model_of_text_is_found_with_all_its_linear_layers_or_some(
    kind: str, named: str, texts: dict[str, str]
) -> None:
    for targets in ("all-linear", (named,)):
        check_base(language(kind, texts[kind]), LoraConfig(target_modules=targets))
    with pytest.raises(InputError, match="matches no layer"):
        check_base(language(kind, texts[kind]), LoraConfig())


@pytest.mark.parametrize(("kind", "other"), [("causal", "seq2seq"), ("seq2seq", "causal")])
def test_a_model_of_another_family_is_refused(kind: str, other: str, texts: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"is not a model of kind {kind}: causal is a decoder alone"):
        check_base(language(kind, texts[other]), LoraConfig(target_modules="all-linear"))


def test_a_llava_is_not_taken_for_a_model_of_text(model: Path) -> None:
    with pytest.raises(InputError, match="model_type 'llava', which is not a model of kind causal"):
        check_base(language("causal", str(model)), LoraConfig(target_modules="all-linear"))


def test_a_gguf_file_has_to_be_there_and_its_reader_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, lora = CausalConfig(kind="causal", model=str(tmp_path), gguf_file="a.gguf"), LoraConfig()
    monkeypatch.setattr("lcia.models.preflight.find_spec", lambda name: object())
    with pytest.raises(InputError, match=r"assistant\.gguf_file: .* has no a\.gguf"):
        check_base(config, lora)
    (tmp_path / "a.gguf").touch()
    check_base(config, lora)
    monkeypatch.setattr("lcia.models.preflight.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install gguf"):
        check_base(config, lora)
