"""What makes two frozen models the same: the whole contents of their files, or their commit on the hub.

A folder is overwritten and a branch of the hub moves on: neither may share stored results with what was there before.
Where a model lies does not count, so a folder that is moved is the same model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, assert_never

from lcia.assistants.tiny import BASES
from lcia.config.assistants import AssistantConfig, LlavaConfig, TinyConfig
from lcia.config.grouping import ClipConfig, EmbedderConfig, TextConfig, TfidfConfig
from lcia.config.image_text import ImageTextConfig
from lcia.config.language import CausalConfig, Seq2SeqConfig
from lcia.config.sections import Section
from lcia.digests import file_digests
from lcia.stage import digest
from lcia.types import InputError

COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG = "config.json"
LOCAL, HUB = "local-dir:", "hf-hub:"
"""How names of open_clip begin that are a folder, or a repository of the hub, and bring their weights along."""
CLIP = "open_clip_config.json"
"""What every repository of open_clip has, as those of transformers have a config.json."""

Hub = TypeVar("Hub", bound=Section)


def pinned_assistant(config: AssistantConfig) -> AssistantConfig:
    """The configuration with a branch or tag of the hub replaced by the commit that it names now.

    Workers then load exactly this commit, whatever the branch names by then, or names in another machine's cache.

    Raises:
        InputError: the model is neither a folder nor to be found on the hub or in its local cache.
    """
    return config if isinstance(config, TinyConfig) else _pinned(config, config.model, config.revision, told(config))


def pinned_embedder(config: EmbedderConfig) -> EmbedderConfig:
    """The same for an embedder; open_clip takes no revision, so a ClipConfig stays as it is."""
    return _pinned(config, config.model, config.revision) if isinstance(config, TextConfig) else config


def _pinned(config: Hub, model: str, revision: str | None, file: str = CONFIG) -> Hub:
    return config if Path(model).is_dir() else config.model_copy(update={"revision": hub_commit(model, revision, file)})


def told(config: LlavaConfig | ImageTextConfig | CausalConfig | Seq2SeqConfig) -> str:
    """The file of a model by which its commit is found: repositories of GGUF files often hold nothing else."""
    return (config.gguf_file or CONFIG) if isinstance(config, CausalConfig) else CONFIG


def base_identity(config: AssistantConfig) -> str:
    """Of an assistant's base: a digest of all its files, or hub id and commit."""
    if isinstance(config, TinyConfig):
        return folder_digest(BASES[config.base])
    return _of_model(config.model, config.revision, told(config))


def embedder_identity(config: EmbedderConfig) -> str:
    """Of an embedder's model; the rule `tfidf` has none."""
    match config:
        case TfidfConfig():
            return ""
        case TextConfig():
            return _of_model(config.model, config.revision)
        case ClipConfig():
            return _of_clip(config)
        case _:
            assert_never(config)


def _of_model(model: str, revision: str | None, file: str = CONFIG) -> str:
    folder = Path(model)
    return folder_digest(folder) if folder.is_dir() else f"{model}@{hub_commit(model, revision, file)}"


def _of_clip(config: ClipConfig) -> str:
    if config.model.startswith(LOCAL):
        return folder_digest(Path(config.model.removeprefix(LOCAL)))
    if config.model.startswith(HUB):
        repository = config.model.removeprefix(HUB)
        return f"{repository}@{hub_commit(repository, None, CLIP)}"
    weights = Path(config.pretrained)
    if weights.is_file():
        return f"{config.model}:{file_digests([weights])[0]}"
    return f"{config.model}:{config.pretrained}@{_of_tag(config)}"


def _of_tag(config: ClipConfig) -> str:
    """What open_clip would load for a tag: an address that names the file's digest, or a repository's commit."""
    import open_clip

    found = open_clip.get_pretrained_cfg(config.model, config.pretrained)
    repository = str(found.get("hf_hub", "")).rpartition("/")[0]
    return hub_commit(repository, None, CLIP) if repository else str(found.get("url", ""))


def folder_digest(folder: Path) -> str:
    """Of all files in a folder and its subfolders, by their names seen from it; the whole files are read.

    Links are followed. Hidden files and folders (.git, the .cache that a download leaves) and __pycache__ are left out.

    Raises:
        InputError: there is no such folder, no file in it, or one that cannot be read.
    """
    files = sorted(_files(folder))
    if not files:
        raise InputError(f"there is no model in {folder}: give a folder with a checkpoint's files, or a hub id")
    try:
        digests = file_digests(folder / name for name in files)
    except OSError as error:
        raise InputError(f"cannot read the model in {folder}: {error}") from None
    return digest(list(zip(files, digests, strict=True)))


def _files(folder: Path) -> Iterator[str]:
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        # A link to a folder above would be followed without end.
        again, seen = os.path.realpath(place) in seen, seen | {os.path.realpath(place)}
        folders[:] = [] if again else [name for name in folders if not (name.startswith(".") or name == "__pycache__")]
        paths = [Path(place) / name for name in names if not (again or name.startswith("."))]
        yield from (path.relative_to(folder).as_posix() for path in paths if path.is_file())


def hub_commit(model: str, revision: str | None, file: str = CONFIG) -> str:
    """The commit that a branch or tag (None: main) of a hub repository names, 40 hex digits.

    It is asked for as the loaders do, by fetching a small `file`; a revision that is a commit needs no network.

    Raises:
        InputError: neither the hub nor the local cache has it.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    path = hub_file(model, revision, file)
    commit = path.parent.name  # .../snapshots/<commit>/config.json
    assert COMMIT.fullmatch(commit), f"not a snapshot of the hub's cache: {path}"
    return commit


def hub_file(model: str, revision: str | None, file: str) -> Path:
    """A small file of a hub repository: from the hub, or, without a network or with HF_HUB_OFFLINE, from its cache.

    Raises:
        InputError: neither has it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    missing = f"{model} (revision {revision or 'main'}) is neither a folder nor found on the hub or in its local cache"
    try:
        return Path(hf_hub_download(model, file, revision=revision))
    except HFValidationError:
        raise InputError(f"{missing}: a hub id looks like ORGANISATION/NAME") from None
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise InputError(
            f"{missing}: give a folder, run `hf download {model}` once with access to the hub, or set revision to a "
            f"commit ({reason})"
        ) from error
