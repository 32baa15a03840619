"""A stage in the middle: what it is made of, and its way into a checkpoint and back, on any number of workers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcia.ema.sharding import like, part_of
from lcia.protocols import Assistant, Strategy
from lcia.stage import TrainStage
from lcia.store.folders import Checkpoints
from lcia.store.scratch import staging
from lcia.training.consensus import choose
from lcia.training.parallel import gathered

if TYPE_CHECKING:
    from accelerate import Accelerator

TENSORS = "state.safetensors"
FACTS = "state.json"


@dataclass
class Loop:
    """What one step touches."""

    stage: TrainStage
    assistant: Assistant
    accelerator: Accelerator
    module: torch.nn.Module
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    strategy: Strategy
    steps: int
    done: int = 0


@dataclass
class Log:
    """Lines of steps.jsonl so far, and what happened on the way to them."""

    lines: list[str]
    notes: dict[str, Any]


def save(loop: Loop, checkpoints: Checkpoints, log: Log) -> None:
    """Everything that a crash inside the stage would lose: whole tensors, so that any layout can take them over.

    Every worker calls it, because shards have to be gathered; the main one writes. It holds no state of a random
    generator: all randomness of a step follows from (seed, step, rank).
    """
    state = loop.strategy.state_dict()
    tensors = {f"strategy.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    tensors |= {f"theta.{n}": p for n, p in loop.parameters.items()}
    tensors |= {f"optimizer.{n}.{k}": v for n, p in loop.parameters.items() for k, v in loop.optimizer.state[p].items()}
    whole = gathered(tensors, loop.accelerator.is_main_process)
    if loop.accelerator.is_main_process:
        scalars = {k: v for k, v in state.items() if not isinstance(v, Tensor)}
        facts = {"step": loop.done, "stage": loop.stage.key, "strategy": scalars, "lines": log.lines,
                 "scheduler": loop.scheduler.state_dict(), "notes": log.notes}  # fmt: skip
        with checkpoints.save(loop.done) as folder:
            save_file(whole, folder / TENSORS)
            (folder / FACTS).write_text(json.dumps(facts))
    loop.accelerator.wait_for_everyone()


def resume(loop: Loop, checkpoints: Checkpoints) -> Log:
    """Takes the loop to the newest checkpoint that is whole, if there is one; names the damaged ones passed over."""
    with staging(Path(tempfile.gettempdir())) as scratch:
        folder, damaged = choose(loop.accelerator, checkpoints, scratch)
        notes: dict[str, Any] = {"damaged_checkpoints": damaged} if damaged else {}
        return Log([], notes) if folder is None else _load(loop, folder, notes)


def _load(loop: Loop, folder: Path, notes: dict[str, Any]) -> Log:
    facts = json.loads((folder / FACTS).read_text())
    # In host memory: each tensor goes to the device by itself, and of a sharded one a part stays there.
    tensors = load_file(folder / TENSORS)
    for name, parameter in loop.parameters.items():
        _put(parameter, tensors[f"theta.{name}"])
    loop.scheduler.load_state_dict(facts["scheduler"])
    loop.optimizer.load_state_dict(_moments(loop, tensors, facts["scheduler"]["_last_lr"]))
    loop.strategy.load_state_dict({**_below(tensors, "strategy."), **facts["strategy"]})
    loop.done = facts["step"]
    before = facts["notes"]
    notes = {name: [*before.get(name, []), *values] for name, values in (notes | {"resumed_at": [loop.done]}).items()}
    return Log(facts["lines"], {**before, **notes})


@torch.no_grad()
def _put(parameter: torch.nn.Parameter, value: Tensor) -> None:
    parameter.copy_(like(part_of(value, parameter), parameter))


def _moments(loop: Loop, tensors: Mapping[str, Tensor], rates: list[float]) -> dict[str, Any]:
    """The optimizer's state, its moments distributed as their parameters are."""
    state = loop.optimizer.state_dict()
    names = {id(parameter): name for name, parameter in loop.parameters.items()}
    order = [parameter for group in loop.optimizer.param_groups for parameter in group["params"]]
    state["state"] = {
        place: {key: _spread(value, p) for key, value in _below(tensors, f"optimizer.{names[id(p)]}.").items()}
        for place, p in enumerate(order)
    }
    for group, rate in zip(state["param_groups"], rates, strict=True):
        group["lr"] = rate
    return state


def _spread(value: Tensor, parameter: torch.nn.Parameter) -> Tensor:
    return like(part_of(value, parameter), parameter) if value.shape == parameter.shape else value


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
