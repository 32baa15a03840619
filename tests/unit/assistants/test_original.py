"""LLaVA in its authors' files becomes a folder that the assistant loads, and answers as the parts do by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lcia import assistants
from lcia.assistants.llava import LlavaAssistant
from lcia.assistants.original import Parts, build_base, published_name
from lcia.config.assistants import LlavaConfig, LoraConfig
from lcia.data.minicoin.drawing import encode_png, plain_scene
from lcia.models.preflight import check_base
from lcia.types import InputError, Message, Sample
from pipelines import cli
from tests.families import VISION, tokenizer

WIDTH = 24
LANGUAGE = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2}  # fmt: skip
SAID = (Message("user", "<image>\nWhat color?"), Message("assistant", "red"), Message("user", "Sure?"),
        Message("assistant", "yes"))  # fmt: skip


class Originals:
    """Small checkpoints in the layouts of vicuna, CLIP, LLaVA's pre-training and a whole LLaVA."""

    def __init__(self, folder: Path) -> None:
        import transformers as t

        torch.manual_seed(0)
        self.folder = folder
        tokens = tokenizer("</s>", {})
        tokens.add_special_tokens({"bos_token": "<s>"})
        ends = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id}
        self.language = t.LlamaForCausalLM(t.LlamaConfig(vocab_size=len(tokens), **LANGUAGE, **ends)).eval()
        clip = t.CLIPModel(t.CLIPConfig(vision_config=VISION, text_config={"hidden_size": 16, "intermediate_size": 16,
                           "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}))  # fmt: skip
        self.eye = clip.vision_model.eval()
        self.projector = nn.Sequential(nn.Linear(VISION["hidden_size"], WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self._save_language(tokens)
        self._save_vision(clip)
        (folder / "pretrain").mkdir()
        torch.save(self.projector_state("model.mm_projector."), folder / "pretrain" / "mm_projector.bin")

    def _save_language(self, tokens: Any) -> None:
        place = self.folder / "vicuna"
        tokens.save_pretrained(place)
        state = self.language.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3)}
        half = len(state) // 2
        for k, part in enumerate((list(state.items())[:half], list(state.items())[half:]), start=1):
            torch.save(dict(part), place / f"pytorch_model-{k:05d}-of-00002.bin")
        self.facts = {"model_type": "llama", **self.language.config.to_dict()}
        (place / "config.json").write_text(json.dumps(self.facts, default=str))

    def _save_vision(self, clip: Any) -> None:
        place = self.folder / "clip"
        place.mkdir()
        clip.config.save_pretrained(place)
        extra = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
        torch.save(clip.state_dict() | extra, place / "pytorch_model.bin")

    def projector_state(self, prefix: str) -> dict[str, Tensor]:
        return {prefix + name: tensor for name, tensor in self.projector.state_dict().items()}

    def whole(self, with_tower: bool) -> Path:
        """All in one folder, as LLaVA's own training leaves it."""
        place = self.folder / f"whole-{with_tower}"
        state = self.language.state_dict() | self.projector_state("model.mm_projector.")
        if with_tower:
            state |= {f"model.vision_tower.vision_tower.vision_model.{k}": v for k, v in self.eye.state_dict().items()}
        place.mkdir()
        torch.save(state, place / "pytorch_model.bin")
        for file in (self.folder / "vicuna").glob("token*"):
            (place / file.name).write_bytes(file.read_bytes())
        facts = {**self.facts, "model_type": "llava_llama", "mm_vision_select_layer": -2, "mm_hidden_size": 32,
                 "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"}  # fmt: skip
        (place / "config.json").write_text(json.dumps(facts, default=str))
        return place

    @torch.no_grad()
    def logits(self, ids: Tensor, pixels: Tensor, image: int) -> Tensor:
        """By hand: the tower's last layer but one without its first token, the projector, in place of the image."""
        for module in (self.language, self.eye, self.projector):
            module.double()
        seen = self.eye(pixels.double(), output_hidden_states=True).hidden_states[-2][:, 1:]
        words = self.language.get_input_embeddings()(ids.where(ids != image, 0))
        words[ids == image] = self.projector(seen).flatten(0, 1)
        logits: Tensor = self.language(inputs_embeds=words).logits
        return logits


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Originals:
    return Originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def parts(originals: Originals) -> Parts:
    place = originals.folder
    return Parts(place / "vicuna", place / "clip", place / "pretrain" / "mm_projector.bin")


def loaded(folder: Path) -> LlavaAssistant:
    config = LlavaConfig(kind="llava", model=str(folder), dtype="float32")
    check_base(config, LoraConfig())
    assistant = assistants.build(config)
    assert isinstance(assistant, LlavaAssistant)
    assistant.module.double()
    return assistant


def row() -> Sample:
    return Sample("", "", SAID, (encode_png(plain_scene(Random(0), 16).image),), ("yes",))


LAYOUTS: dict[str, Callable[[Originals, Parts], Parts]] = {
    "parts": lambda originals, parts: parts,
    "whole": lambda originals, parts: Parts(originals.whole(False), parts.vision),
    "whole with its tower": lambda originals, parts: Parts(originals.whole(True), parts.vision),
}


@pytest.mark.numeric
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_converted_model_computes_what_its_parts_do(
    originals: Originals, parts: Parts, layout: str, tmp_path: Path
) -> None:
    made = build_base(LAYOUTS[layout](originals, parts), tmp_path / "base", "float32")
    assistant = loaded(tmp_path / "base")
    batch = assistant.collate([row()])
    ids, image = batch["input_ids"], assistant.dialogue.image_id
    expected = originals.logits(ids, batch["pixel_values"], image)
    found = assistant.logits(assistant.module, batch)
    assert made["vocabulary"] % 64 == 0
    assert torch.allclose(found[..., : expected.shape[-1]], expected, rtol=0, atol=1e-9)


def test_a_dialogue_is_that_of_vicuna(parts: Parts, tmp_path: Path) -> None:
    build_base(parts, tmp_path / "base")
    assistant = loaded(tmp_path / "base")
    batch = assistant.collate([row()])
    labels = batch["labels"][0]
    assert assistant.tokenizer.decode(labels[labels != -100]) == " red</s> yes</s>"
    text = assistant.text(batch["input_ids"][0].tolist())
    assert text.startswith("<s>A chat between a curious user and an artificial intelligence assistant. ")
    assert text.endswith(
        "questions. USER: <4 image tokens>\nWhat color? ASSISTANT: red</s>USER: Sure? ASSISTANT: yes</s>"
    )
    assert isinstance(assistant.answer([row()], 4)[0], str)


def test_shards_together_are_the_one_file(parts: Parts, tmp_path: Path) -> None:
    one = build_base(parts, tmp_path / "one", "float32")
    many = build_base(parts, tmp_path / "many", "float32", shard_bytes=20_000)
    assert (len(one["files"]), one["parameters"]) == (1, many["parameters"])
    assert len(many["files"]) > 2
    states = [loaded(tmp_path / name).module.state_dict() for name in ("one", "many")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_new_rows_of_the_vocabulary_are_the_mean_of_the_others(
    originals: Originals, parts: Parts, tmp_path: Path
) -> None:
    build_base(parts, tmp_path / "base", "float32")
    rows = loaded(tmp_path / "base").module.get_input_embeddings().weight
    given = originals.language.get_input_embeddings().weight.double()
    assert torch.allclose(rows[len(given) :], given.mean(dim=0).expand(len(rows) - len(given), -1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "language_model.model.layers.0.self_attn.q_proj.weight"),
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.mm_projector.0.weight", "multi_modal_projector.linear_1.weight"),
        ("mm_projector.2.bias", "multi_modal_projector.linear_2.bias"),
        ("vision_model.encoder.layers.1.mlp.fc1.bias", "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias"),
        ("model.vision_tower.vision_tower.vision_model.encoder.x", "vision_tower.vision_model.encoder.x"),
        ("model.layers.3.self_attn.rotary_emb.inv_freq", None),
        ("vision_model.embeddings.position_ids", None),
        ("text_model.encoder.layers.0.mlp.fc1.bias", None),
        ("logit_scale", None),
    ],
)  # fmt: skip
def test_names_are_those_of_the_published_conversions(name: str, expected: str | None) -> None:
    assert published_name(name) == expected


def test_files_of_old_torch_are_read_too(originals: Originals, parts: Parts, tmp_path: Path) -> None:
    file = tmp_path / "mm_projector.bin"
    torch.save(originals.projector_state("mm_projector."), file, _use_new_zipfile_serialization=False)
    made = build_base(Parts(parts.language, parts.vision, file), tmp_path / "base")
    assert made["files"] == ["model.safetensors"]


def test_the_layer_that_is_seen_is_that_of_the_projector_s_training(parts: Parts, tmp_path: Path) -> None:
    assert parts.projector is not None
    file = tmp_path / "mm_projector.bin"
    file.write_bytes(parts.projector.read_bytes())
    (tmp_path / "config.json").write_text('{"mm_vision_select_layer": -1, "hidden_size": 1}')
    build_base(Parts(parts.language, parts.vision, file), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert (config["vision_feature_layer"], config["text_config"]["hidden_size"]) == (-1, WIDTH)


# What is refused --------------------------------------------------------------------------------------------------


def test_a_pickle_that_runs_code_is_not_run(parts: Parts, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model.mm_projector.0.weight": Evil()}, tmp_path / "mm_projector.bin")
    with pytest.raises(InputError, match="weights alone"):
        build_base(Parts(parts.language, parts.vision, tmp_path / "mm_projector.bin"), tmp_path / "base")
    assert not (tmp_path / "ran").exists()


def test_a_projector_of_another_kind_is_refused(parts: Parts, tmp_path: Path) -> None:
    torch.save({"model.mm_projector.weight": torch.ones(2, 2)}, tmp_path / "mm_projector.bin")
    with pytest.raises(InputError, match="two linear layers"):
        build_base(Parts(parts.language, parts.vision, tmp_path / "mm_projector.bin"), tmp_path / "base")


def test_parts_that_do_not_fit_together_are_refused(originals: Originals, parts: Parts, tmp_path: Path) -> None:
    wide = {name: tensor.repeat(1, 2) if name.endswith("0.weight") else tensor
            for name, tensor in originals.projector_state("model.mm_projector.").items()}  # fmt: skip
    torch.save(wide, tmp_path / "mm_projector.bin")
    with pytest.raises(InputError, match=r"linear_1.weight is \[24, 64\]"):
        build_base(Parts(parts.language, parts.vision, tmp_path / "mm_projector.bin"), tmp_path / "base")
    with pytest.raises(InputError, match="4 missing, for example multi_modal_projector"):
        build_base(Parts(parts.language, parts.vision), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_folder_in_use_is_not_overwritten(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="not empty"):
        build_base(parts, tmp_path)


# The command ------------------------------------------------------------------------------------------------------


def said(*words: object) -> int:
    return cli.guarded(lambda: cli.app([str(word) for word in words], standalone_mode=False))


def test_the_command_makes_the_folder(parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--language", parts.language, "--vision", parts.vision, "--projector", parts.projector]
    assert said("base", "build", tmp_path / "base", *options, "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["files"] == ["model.safetensors"]
    assert loaded(tmp_path / "base").dialogue.image_tokens == 4


@pytest.mark.parametrize(
    ("options", "message"), [(["--dtype", "int8"], "give one of"), (["--tokenizer", "nowhere"], "there is no nowhere")]
)
def test_wrong_options_are_told(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    given = ["--language", parts.language, "--vision", parts.vision, *options]
    assert said("base", "build", tmp_path / "base", *given) == 2
    assert message in capsys.readouterr().err
