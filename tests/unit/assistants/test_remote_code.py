"""Code that lies beside a checkpoint's weights never runs unasked, and no question appears on the terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from lcia import assistants, embedders
from lcia.assistants.tiny import TINY_BASE
from lcia.config.assistants import LlavaConfig
from lcia.config.baselines import SequentialConfig
from lcia.config.grouping import ClipConfig, TextConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.language import CausalConfig, Seq2SeqConfig
from lcia.config.run import TrainingConfig
from lcia.stage import EmbedStage, TrainStage
from lcia.types import InputError

CODE = """
from pathlib import Path
from transformers import LlavaProcessor, PretrainedConfig

Path("MARK").touch()


class Own(LlavaProcessor):
    pass


class OwnConfig(PretrainedConfig):
    model_type = "own"
"""


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions on the terminal, each of which is answered with a yes."""
    questions: list[str] = []

    def answer(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    return questions


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that the code makes when it runs."""
    return tmp_path / "mark"


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


@pytest.fixture
def llava(tmp_path: Path, mark: Path) -> Path:
    """A LLaVA whose processor is a class of its own."""
    folder = Path(shutil.copytree(TINY_BASE, tmp_path / "llava"))
    (folder / "own.py").write_text(CODE.replace("MARK", str(mark)))
    _edit(folder / "processor_config.json", processor_class="Own", auto_map={"AutoProcessor": "own.Own"})
    return folder


@pytest.fixture
def encoder(tmp_path: Path, mark: Path) -> Path:
    """A text encoder whose configuration is a class of its own."""
    folder = tmp_path / "encoder"
    PreTrainedTokenizerFast.from_pretrained(TINY_BASE).save_pretrained(folder)
    (folder / "own.py").write_text(CODE.replace("MARK", str(mark)))
    _edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    return folder


@pytest.fixture
def clip(tmp_path: Path, encoder: Path) -> Path:
    """A CLIP whose text tower is that encoder."""
    folder = tmp_path / "clip"
    text = {"hf_model_name": str(encoder), "hf_tokenizer_name": str(encoder), "context_length": 8}
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16}
    folder.mkdir()
    _edit(folder / "open_clip_config.json", model_cfg={"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})
    (folder / "open_clip_model.safetensors").write_bytes(b"")
    return folder


LOADS: dict[str, tuple[Callable[[Path], object], str]] = {
    "llava": (
        lambda folder: assistants.build(LlavaConfig(kind="llava", model=str(folder), dtype="float32")),
        "assistant.trust_remote_code",
    ),
    "encoder": (
        lambda folder: embedders.build(TextConfig(kind="text", model=str(folder))),
        "grouping.embedder.trust_remote_code",
    ),
    "clip": (
        lambda folder: embedders.build(ClipConfig(kind="clip", model=f"local-dir:{folder}")),
        "grouping.embedder: .* brings code of its own, which is never run for kind clip",
    ),
}


@pytest.mark.parametrize("kind", LOADS)
def test_such_code_is_refused_with_the_key_that_allows_it(
    kind: str, request: pytest.FixtureRequest, asked: list[str], mark: Path
) -> None:
    load, message = LOADS[kind]
    with pytest.raises(InputError, match=message):
        load(request.getfixturevalue(kind))
    assert (asked, mark.exists()) == ([], False)


def test_a_model_of_images_and_text_is_refused_alike(llava: Path, asked: list[str], mark: Path) -> None:
    with pytest.raises(InputError, match=r"assistant\.trust_remote_code"):
        assistants.build(ImageTextConfig(kind="image_text", model=str(llava)))


@pytest.mark.parametrize("config", [CausalConfig, Seq2SeqConfig])
def test_so_is_that_of_models_of_text_alone(
    config: type[CausalConfig] | type[Seq2SeqConfig], encoder: Path, asked: list[str], mark: Path
) -> None:
    kind = config.model_fields["kind"].annotation.__args__[0]
    with pytest.raises(InputError, match=r"assistant\.trust_remote_code"):
        assistants.build(config(kind=kind, model=str(encoder)))
    assert (asked, mark.exists()) == ([], False)


def test_the_key_allows_it(llava: Path, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    config = LlavaConfig(kind="llava", model=str(llava), dtype="float32", trust_remote_code=True)
    assert type(assistants.build(config).dialogue.processor).__name__ == "Own"
    assert mark.exists()


def test_a_checkpoint_without_safetensors_is_refused_before_a_pickle_is_opened(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY_BASE, tmp_path / "llava"))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(InputError, match="weights as safetensors"):
        assistants.build(LlavaConfig(kind="llava", model=str(folder), dtype="float32"))


def test_what_is_allowed_is_part_of_the_key_and_leaves_no_trace_where_it_is_not() -> None:
    def stages(**given: bool) -> list[str]:
        config = LlavaConfig(kind="llava", model="m", **given)
        train = TrainStage(
            tasks=("A",), shards=("s",), parent=None, first=True, base="b", assistant=config,
            lora={"r": 1}, training=TrainingConfig(), strategy=SequentialConfig(), seed=0,
        )  # fmt: skip
        embed = EmbedStage(shards="s", embedder=TextConfig(kind="text", model="m", **given), identity="i")
        return [train.key, embed.key]

    assert stages() == stages(trust_remote_code=False)
    assert set(stages()).isdisjoint(stages(trust_remote_code=True))
    assert "trust_remote_code" not in LlavaConfig(kind="llava", model="m").model_dump()
