"""A stage of tuning that was killed, or whose checkpoints were damaged, ends with the bits of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lcia.local import LocalExecutor
from lcia.store.folders import Store
from lcia.store.seals import defects
from lcia.training.result import KEPT, RESULT, STEPS
from tests.programs import killed
from tests.programs.killed import STRATEGIES, Fate

BITS = {name: ("adapter_model.safetensors", STEPS) + ((KEPT,) if name != "paper" else ()) for name in STRATEGIES}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing but the rows."""
    home = tmp_path_factory.mktemp("homes") / "data"
    killed.stages(LocalExecutor(Store(killed.root(home, "local"))), "paper")
    return home


@pytest.fixture(scope="module")
def whole(data: Path) -> dict[str, Path]:
    """Both stages of each strategy, trained without disturbance."""
    homes = {strategy: _copy(data, data.with_name(strategy)) for strategy in STRATEGIES}
    for strategy, home in homes.items():
        assert killed.run(killed.train, home, "local", strategy) == 0, killed.why(home)
    return homes


@pytest.fixture(scope="module")
def halfway(data: Path) -> dict[str, Path]:
    """Killed in the second stage, after its second checkpoint."""
    homes = {strategy: _copy(data, data.with_name(f"half-{strategy}")) for strategy in STRATEGIES}
    for strategy, home in homes.items():
        assert killed.run(killed.train, home, "local", strategy, fate=Fate(step=3)) == -signal.SIGKILL
        assert [folder.name for folder in _checkpoints(home)] == ["000000001", "000000002"]
    return homes


def _copy(home: Path, to: Path) -> Path:
    return Path(shutil.copytree(home, to))


def _checkpoints(home: Path) -> list[Path]:
    """Of the second stage, the only one that has any."""
    return sorted(path for path in home.glob("store/partial/*/*") if path.name.isdigit())


def _stage(home: Path, strategy: str, number: int = 1) -> Path:
    key = killed.stages(LocalExecutor(Store(killed.root(home, "local"))), strategy)[number].key
    return home / "store" / key[:2] / key


def _differing(one: Path, two: Path, strategy: str) -> list[str]:
    folders = [[_stage(home, strategy, number) for home in (one, two)] for number in (0, 1)]
    return [f"{a}/{name}" for a, b in folders for name in BITS[strategy]
            if (a / name).read_bytes() != (b / name).read_bytes()]  # fmt: skip


def _result(home: Path, strategy: str) -> dict[str, object]:
    result: dict[str, object] = json.loads((_stage(home, strategy) / RESULT).read_text())
    return result


def _visible(home: Path) -> str:
    """A digest of what another process would find in the store."""
    state = hashlib.blake2b()
    for path in sorted((home / "store").rglob("*")):
        if ".tmp" not in path.parts:
            state.update(f"{path.relative_to(home)}:".encode() + (path.read_bytes() if path.is_file() else b""))
    return state.hexdigest()


def _goes_on(home: Path, place: str, strategy: str, whole: Path) -> None:
    """The next process continues from the newest checkpoint that is whole, to the bits of the undisturbed run."""
    published = not defects(_stage(home, strategy))
    newest = max((int(folder.name) for folder in _checkpoints(home) if not defects(folder)), default=0)
    before = _result(home, strategy) if published else None
    assert killed.run(killed.train, home, place, strategy) == 0, killed.why(home)
    assert _differing(home, whole, strategy) == []
    if published:
        assert _result(home, strategy) == before
    else:
        assert _result(home, strategy)["resumed_at"][-1] == newest  # type: ignore[index]


@pytest.mark.parametrize("case", [("curvature", "local", None), ("paper", "local", 5), ("paper", "url", 5)])
def test_killed_between_any_two_files_a_stage_ends_with_the_same_bits(
    whole: dict[str, Path], halfway: dict[str, Path], tmp_path: Path, case: tuple[str, str, int | None]
) -> None:
    """A checkpoint, the deletion of an old one, a publication and the deletion of the rest: at each touch of a file."""
    strategy, place, draws = case
    home = _copy(halfway[strategy], tmp_path / "undisturbed")
    assert killed.run(killed.train, home, place, strategy) == 0, killed.why(home)
    touches, seen = range(killed.touches(home)), set()
    for touch in touches if draws is None else random.Random(7).sample(touches, draws):
        home = _copy(halfway[strategy], tmp_path / str(touch))
        assert killed.run(killed.train, home, place, strategy, fate=Fate(change=touch)) == -signal.SIGKILL
        # What the next process does follows from what it finds, so equal states are continued once.
        if _visible(home) not in seen:
            seen.add(_visible(home))
            _goes_on(home, place, strategy, whole[strategy])
    assert len(seen) >= (5 if draws is None else 2)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_at_random_steps_both_stages_end_with_the_same_bits(
    whole: dict[str, Path], data: Path, tmp_path: Path, strategy: str, seed: int
) -> None:
    home, draw = _copy(data, tmp_path / "home"), random.Random(seed)
    for stage in (0, 1):
        fate = Fate(stage=stage, step=draw.randint(1, 4))
        assert killed.run(killed.train, home, "local", strategy, fate=fate) == -signal.SIGKILL
    assert killed.run(killed.train, home, "local", strategy) == 0, killed.why(home)
    assert _differing(home, whole[strategy], strategy) == []


@pytest.mark.parametrize("look", [0, 2, 4, 9, 12])
def test_killed_while_it_looks_back_a_stage_ends_with_the_same_bits(
    whole: dict[str, Path], data: Path, tmp_path: Path, look: int
) -> None:
    """Of each task three batches are seen again for its curvature, then four for the divergence from the start."""
    home = _copy(data, tmp_path / "home")
    assert killed.run(killed.train, home, "local", "kronecker", fate=Fate(look=look)) == -signal.SIGKILL
    assert killed.run(killed.train, home, "local", "kronecker") == 0, killed.why(home)
    assert _result(home, "kronecker")["resumed_at" if look > 6 else "steps"] in ([4], [3], 4)
    assert _differing(home, whole["kronecker"], "kronecker") == []


# Damage -----------------------------------------------------------------------------------------------------------


def _flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def _mistaken(path: Path) -> None:
    """A marker that is well formed and wrong."""
    marker = json.loads(path.read_text())
    marker["files"]["state.json"]["blake2b"] = "0" * 32
    path.write_text(json.dumps(marker))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "first byte": lambda path: _flip(path, 0),
    "byte in the middle": lambda path: _flip(path, 0.5),
    "last byte": lambda path: _flip(path, 1),
    "deleted": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
}
FILES = ("state.safetensors", "state.json", "complete.json")
CASES = [(file, name, damage) for file in FILES for name, damage in DAMAGES.items()]
CASES += [
    ("complete.json", "invalid JSON", lambda path: path.write_text("{")),
    ("complete.json", "wrong checksum", _mistaken),
]


@pytest.mark.parametrize(("file", "damage"), [pytest.param(f, d, id=f"{f}-{n}") for f, n, d in CASES])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    whole: dict[str, Path], halfway: dict[str, Path], tmp_path: Path, file: str, damage: Callable[[Path], object]
) -> None:
    home = _copy(halfway["curvature"], tmp_path / "home")
    damage(_checkpoints(home)[-1] / file)
    assert killed.run(killed.train, home, "local", "curvature") == 0, killed.why(home)
    result = _result(home, "curvature")
    assert (result["damaged_checkpoints"], result["resumed_at"]) == (["000000002"], [1])
    told = home.with_suffix(".told").read_text()
    assert told == "damaged checkpoints passed over: 000000002; continued after step 1"
    assert _differing(home, whole["curvature"], "curvature") == []


def test_with_all_checkpoints_damaged_a_stage_begins_again_and_says_so(
    whole: dict[str, Path], halfway: dict[str, Path], tmp_path: Path
) -> None:
    home = _copy(halfway["paper"], tmp_path / "home")
    for folder in _checkpoints(home):
        DAMAGES["truncated"](folder / "state.safetensors")
    assert killed.run(killed.train, home, "local", "paper") == 0, killed.why(home)
    result = _result(home, "paper")
    assert result["damaged_checkpoints"] == ["000000002", "000000001"]
    assert "resumed_at" not in result
    told = home.with_suffix(".told").read_text()
    assert told.endswith("000000002, 000000001; no whole one was left, so the stage began again")
    assert _differing(home, whole["paper"], "paper") == []


# Two workers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sees", ["a newer checkpoint", "the result"])
def test_workers_follow_the_main_one_where_another_process_changes_the_store(
    whole: dict[str, Path], halfway: dict[str, Path], tmp_path: Path, sees: str
) -> None:
    main = _copy(halfway["curvature"], tmp_path / "main")
    other = _copy(main, tmp_path / "other")
    if sees == "the result":
        shutil.copytree(_stage(whole["curvature"], "curvature"), _stage(other, "curvature"))
    else:
        assert killed.run(killed.train, other, "local", "curvature", fate=Fate(step=4)) == -signal.SIGKILL
        assert [folder.name for folder in _checkpoints(other)] == ["000000002", "000000003"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [killed.start(killed.train_in_pair, home, rank, port) for rank, home in enumerate((main, other))]
    for process, home in zip(pair, (main, other), strict=True):
        process.join(120)
        assert process.exitcode == 0, killed.why(home)
    result = _result(main, "curvature")
    assert (result["workers"], result["resumed_at"]) == (2, [2])
