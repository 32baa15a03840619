"""What tells one model from another: every byte of its files or its commit on the hub, never where it lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcia import assistants
from lcia.assistants.tiny import BASES, TINY_BASE
from lcia.config.assistants import LlavaConfig, TinyConfig
from lcia.config.grouping import ClipConfig, EmbedderConfig, TextConfig, TfidfConfig
from lcia.config.language import CausalConfig
from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.models.identity import (
    base_identity,
    embedder_identity,
    folder_digest,
    hub_commit,
    pinned_assistant,
    pinned_embedder,
)
from lcia.run import Prepared, prepare
from lcia.store.folders import Store
from lcia.types import InputError

ONE, TWO = "1" * 40, "2" * 40


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint of two megabytes."""
    return Path(shutil.copytree(TINY_BASE, tmp_path / "model"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A local cache of the hub, as huggingface_hub lays it out, with org/name; a call moves its branch main."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--name"
    for commit in (ONE, TWO):
        folder = repository / "snapshots" / commit
        shutil.copytree(TINY_BASE, folder)
        (folder / "open_clip_config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def move(commit: str) -> None:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)

    return move


def llava(model: Path | str, **given: Any) -> LlavaConfig:
    return LlavaConfig(kind="llava", model=str(model), **given)


# Folders -----------------------------------------------------------------------------------------------------------


def test_checkpoints_that_differ_in_their_last_byte_are_two_bases(model: Path) -> None:
    before, weights = base_identity(llava(model)), model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    assert len(content) > 1 << 20
    content[-1] ^= 1
    weights.write_bytes(content)
    assert base_identity(llava(model)) != before


@pytest.mark.parametrize("change", ["write", "rename", "remove", "add"])
def test_files_in_subfolders_of_a_model_count(model: Path, change: str) -> None:
    folder = model / "additional_chat_templates"
    folder.mkdir()
    (folder / "default.jinja").write_text("{{ a }}")
    before = base_identity(llava(model))
    if change == "write":
        (folder / "default.jinja").write_text("{{ b }}")
    elif change == "rename":
        (folder / "default.jinja").rename(folder / "other.jinja")
    elif change == "remove":
        (folder / "default.jinja").unlink()
    else:
        (folder / "tool.jinja").write_text("")
    assert base_identity(llava(model)) != before


def test_what_version_control_downloads_and_python_leave_beside_a_model_does_not_count(model: Path) -> None:
    before = base_identity(llava(model))
    for name in (".git/index", ".cache/huggingface/download.lock", "__pycache__/code.pyc", ".gitattributes"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("x")
    assert base_identity(llava(model)) == before


def test_links_are_followed_as_in_the_snapshots_of_the_hubs_cache(model: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in model.iterdir():
        (linked / path.name).symlink_to(path)
    assert folder_digest(linked) == folder_digest(model)
    (linked / "more").symlink_to(linked)  # and one that leads back up ends somewhere
    assert folder_digest(linked) == folder_digest(model)


def test_the_shipped_bases_are_two_and_each_is_the_same_as_a_checkpoint_of_ones_own(model: Path) -> None:
    assert base_identity(TinyConfig()) == base_identity(llava(model))
    assert len({base_identity(TinyConfig(base=name)) for name in BASES}) == len(BASES)


def test_a_folder_without_files_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model in"):
        base_identity(llava(tmp_path))


def test_a_gguf_file_is_a_file_of_its_folder_like_any_other(tmp_path: Path) -> None:
    config = CausalConfig(kind="causal", model=str(tmp_path), gguf_file="a.gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF one")
    before = base_identity(config)
    (tmp_path / "a.gguf").write_bytes(b"GGUF two")
    assert base_identity(config) != before
    assert pinned_assistant(config) == config


# The hub -----------------------------------------------------------------------------------------------------------


def test_a_branch_that_moves_is_another_base(hub: Callable[[str], None]) -> None:
    hub(ONE)
    before = base_identity(llava("org/name"))
    assert before == f"org/name@{ONE}"
    hub(TWO)
    assert base_identity(llava("org/name")) == f"org/name@{TWO}"


def test_a_branch_is_pinned_so_that_workers_load_the_commit_that_the_key_names(hub: Callable[[str], None]) -> None:
    hub(ONE)
    pinned = pinned_assistant(llava("org/name"))
    hub(TWO)
    assert pinned == llava("org/name", revision=ONE)
    assert base_identity(pinned) == f"org/name@{ONE}"
    assert pinned_embedder(TextConfig(kind="text", model="org/name")).revision == TWO  # type: ignore[union-attr]


def test_the_pinned_commit_is_what_is_loaded_and_its_adapters_name_the_model(
    hub: Callable[[str], None], tmp_path: Path
) -> None:
    hub(TWO)
    (tmp_path / "hub" / "models--org--name" / "snapshots" / TWO / "config.json").write_text("{broken")
    assistant = assistants.build(llava("org/name", revision=ONE, dtype="float32"))
    assistant.adapters.add("a", seed=0)
    assistant.adapters.save("a", tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "org/name"


def test_the_adapter_of_a_folder_names_no_place_of_this_machine(model: Path, tmp_path: Path) -> None:
    assistant = assistants.build(llava(model, dtype="float32"))
    assistant.adapters.add("a", seed=0)
    assistant.adapters.save("a", tmp_path / "adapter")
    assert str(tmp_path) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


def test_a_commit_needs_neither_network_nor_cache() -> None:
    assert hub_commit("nobody/nothing", ONE) == ONE


@pytest.mark.parametrize("revision", [None, "main", ONE[:7], "v1"])
def test_without_network_and_cache_a_branch_is_refused(hub: Callable[[str], None], revision: str | None) -> None:
    with pytest.raises(InputError, match="neither a folder nor found on the hub"):
        hub_commit("nobody/nothing", revision)


@pytest.mark.parametrize("model", ["/nope", "a/b/c", "nobody/nothing"])
def test_a_model_that_is_nowhere_is_told_before_data_is_read(tmp_path: Path, model: str) -> None:
    with pytest.raises(InputError, match="neither a folder nor found on the hub"):
        prepare([_config(tmp_path, model)], LocalExecutor(Store(str(tmp_path / "store"))))
    assert not list((tmp_path / "store").rglob("*"))


# Embedders ---------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> EmbedderConfig:
    return TextConfig(kind="text", model=str(path))


def _clip_folder(path: Path) -> EmbedderConfig:
    return ClipConfig(kind="clip", model=f"local-dir:{path}")


def _clip_weights(path: Path) -> EmbedderConfig:
    return ClipConfig(kind="clip", model="ViT-B-32", pretrained=str(path / "model.safetensors"))


@pytest.mark.parametrize("config_of", [_folder, _clip_folder, _clip_weights])
def test_an_embedder_whose_weights_are_replaced_is_another_one(
    tmp_path: Path, config_of: Callable[[Path], EmbedderConfig]
) -> None:
    (tmp_path / "one").mkdir()
    weights = tmp_path / "one" / "model.safetensors"
    weights.write_bytes(b"1")
    before = embedder_identity(config_of(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert embedder_identity(config_of(tmp_path / "two")) == before
    weights.write_bytes(b"2")
    assert embedder_identity(config_of(tmp_path / "one")) != before


@pytest.mark.parametrize(
    "config",
    [TextConfig(kind="text", model="org/name"), ClipConfig(kind="clip", model="hf-hub:org/name")],
    ids=lambda config: config.kind,
)
def test_an_embedder_of_the_hub_is_known_by_its_commit(hub: Callable[[str], None], config: EmbedderConfig) -> None:
    hub(ONE)
    assert embedder_identity(config) == f"org/name@{ONE}"
    hub(TWO)
    assert embedder_identity(config) == f"org/name@{TWO}"


def test_the_same_weights_under_two_architectures_are_two_embedders(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    small, large = (
        ClipConfig(kind="clip", model=name, pretrained=str(tmp_path / "weights")) for name in ("ViT-B-32", "ViT-L-14")
    )
    assert embedder_identity(small) != embedder_identity(large)


def test_a_tag_of_open_clip_is_known_by_what_it_loads(
    hub: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"hub": {"hf_hub": "org/name/"}, "file": {"hf_hub": "org/name/weights.bin"}, "url": {"url": "https://a/b"}}
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda model, tag: known[tag])
    hub(ONE)
    found = [embedder_identity(ClipConfig(kind="clip", model="M", pretrained=tag)) for tag in known]
    assert found == [f"M:hub@{ONE}", f"M:file@{ONE}", "M:url@https://a/b"]


def test_a_rule_without_a_model_has_no_identity() -> None:
    assert embedder_identity(TfidfConfig()) == ""


# Keys --------------------------------------------------------------------------------------------------------------


def _config(folder: Path, model: Path | str, **given: Any) -> RunConfig:
    task = {"name": "A", "train": "t.json", "test": "t.json"}
    values = {
        "benchmark": {"kind": "custom", "root": str(folder), "tasks": [task]},
        "assistant": {"kind": "llava", "model": str(model), "dtype": "float32"},
        "training": {"max_steps": 1},
        **given,
    }
    return parse(RunConfig, values, "test")


def _rows(folder: Path) -> None:
    Image.new("RGB", (64, 24), "red").save(folder / "0.png")
    turns = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]
    (folder / "t.json").write_text(json.dumps([{"id": "0", "image": "0.png", "conversations": turns}]))


def _planned(folder: Path, model: Path | str, **given: Any) -> Prepared:
    return prepare([_config(folder, model, **given)], LocalExecutor(Store(str(folder / "store"))))[0]


def _keys(prepared: Prepared) -> list[str]:
    return [stage.key for stage in (*prepared.plan.trains, *prepared.plan.evals)]


def test_a_model_folder_that_is_moved_makes_the_same_run(tmp_path: Path, model: Path) -> None:
    _rows(tmp_path)
    before = _keys(_planned(tmp_path, model))
    model.rename(tmp_path / "elsewhere")
    moved = _planned(tmp_path, tmp_path / "elsewhere")
    assert _keys(moved) == before
    # The record still says where the workers find it.
    assert moved.plan.trains[0].assistant == llava(tmp_path / "elsewhere", dtype="float32")


def test_data_that_is_moved_makes_the_same_run_and_a_file_of_another_name_does_not(tmp_path: Path, model: Path) -> None:
    _rows(tmp_path)
    before = _keys(_planned(tmp_path, model))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("t.json", "0.png"):
        (tmp_path / name).rename(moved / name)
    assert _keys(_planned(moved, model)) == before
    # Rows without an id are called after their file.
    (moved / "t.json").rename(moved / "u.json")
    task = {"name": "A", "train": "u.json", "test": "u.json"}
    renamed = {"kind": "custom", "root": str(moved), "tasks": [task]}
    assert set(_keys(_planned(moved, model, benchmark=renamed))).isdisjoint(before)


def test_a_branch_its_name_and_its_commit_make_the_same_run(tmp_path: Path, hub: Callable[[str], None]) -> None:
    _rows(tmp_path)
    hub(ONE)
    keys = []
    for revision in (None, "main", ONE):
        assistant = {"kind": "llava", "model": "org/name", "revision": revision, "dtype": "float32"}
        planned = _planned(tmp_path, "org/name", assistant=assistant)
        assert planned.plan.trains[0].assistant.revision == ONE  # type: ignore[union-attr]
        keys.append(_keys(planned))
    assert keys == [keys[0]] * 3


def test_a_text_embedder_that_is_replaced_embeds_again_and_one_that_is_moved_does_not(
    tmp_path: Path, model: Path
) -> None:
    _rows(tmp_path)
    store, made = Store(str(tmp_path / "store")), list[str]()

    class Executor(LocalExecutor):
        def embed(self, stages: Any) -> None:
            made[:] = [stage.key for stage in stages]
            raise InterruptedError

    def key(place: Path) -> list[str]:
        grouping = {"embedder": {"kind": "text", "model": str(place)}}
        with pytest.raises(InterruptedError):
            prepare([_config(tmp_path, model, grouping=grouping)], Executor(store))
        return list(made)

    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "model.safetensors").write_bytes(b"1")
    before = key(encoder)
    encoder.rename(tmp_path / "moved")
    assert key(tmp_path / "moved") == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"2")
    assert set(key(tmp_path / "moved")).isdisjoint(before)
