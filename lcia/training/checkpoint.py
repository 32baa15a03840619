"""What a crash inside a stage would lose, and its way into a checkpoint and back, on any number of workers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lcia.ema.sharding import like, part_of
from lcia.protocols import Strategy
from lcia.store.background import Uploads
from lcia.store.folders import Checkpoints
from lcia.store.scratch import staging
from lcia.training.parallel import from_main, gathered

if TYPE_CHECKING:
    from accelerate import Accelerator

TENSORS = "state.safetensors"
FACTS = "state.json"
LOOKS = 5
"""How often workers try to find the checkpoint that they all continue from."""


@dataclass
class State:
    """How far a stage has come. `lines` are those of steps.jsonl so far, `notes` what happened on the way to them."""

    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    strategy: Strategy
    done: int = 0
    lines: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def save(state: State, checkpoints: Checkpoints, accelerator: Accelerator, uploads: Uploads) -> None:
    """Writes whole tensors, so that any layout can take them over; on their way to another machine training goes on.

    Every worker calls it, because shards have to be gathered; the main one writes. It holds no state of a random
    generator: all randomness of a step follows from (seed, step, rank).
    """
    strategy = state.strategy.state_dict()
    tensors = {f"strategy.{k}": v for k, v in strategy.items() if isinstance(v, Tensor)}
    tensors |= {f"theta.{n}": p for n, p in state.parameters.items()}
    for name, parameter in state.parameters.items():
        tensors |= {f"optimizer.{name}.{k}": v for k, v in state.optimizer.state[parameter].items()}
    whole = gathered(tensors, accelerator.is_main_process)
    if accelerator.is_main_process:
        scalars = {k: v for k, v in strategy.items() if not isinstance(v, Tensor)}
        facts = {"step": state.done, "strategy": scalars, "scheduler": state.scheduler.state_dict(),
                 "lines": state.lines, "notes": state.notes}  # fmt: skip
        with checkpoints.save(state.done, uploads) as folder:
            save_file(whole, folder / TENSORS)
            (folder / FACTS).write_text(json.dumps(facts))
    accelerator.wait_for_everyone()


def resume(state: State, checkpoints: Checkpoints, accelerator: Accelerator) -> None:
    """Takes the state to the newest checkpoint that is whole, if there is one; notes the damaged ones passed over."""
    with staging(Path(tempfile.gettempdir())) as scratch:
        folder, damaged = choose(accelerator, checkpoints, scratch)
        if damaged:
            state.notes["damaged_checkpoints"] = damaged
        if folder is not None:
            _load(state, folder)


def choose(accelerator: Accelerator, checkpoints: Checkpoints, scratch: Path) -> tuple[Path | None, list[str]]:
    """The main worker's choice of a checkpoint, on all workers. Where another process saves or clears meanwhile, some
    may not find it, and all try again."""
    for look in range(LOOKS):
        folder, damaged = checkpoints.load(scratch / f"{look}")
        step = from_main(_step_of(folder), accelerator)
        if not accelerator.is_main_process and step != _step_of(folder):
            folder, _ = checkpoints.load(scratch / f"{look}again", newest=step)
        steps = accelerator.gather(torch.tensor([_step_of(folder)], device=accelerator.device))
        if bool((steps == step).all()):
            return folder, damaged
    raise RuntimeError(f"workers would continue from different steps: {steps.tolist()}")


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name)


def _load(state: State, folder: Path) -> None:
    facts = json.loads((folder / FACTS).read_text())
    # In host memory: each tensor goes to the device by itself, and of a sharded one a part stays there.
    tensors = load_file(folder / TENSORS)
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(_placed(tensors[f"theta.{name}"], parameter))
    state.scheduler.load_state_dict(facts["scheduler"])
    state.optimizer.load_state_dict(_moments(state, tensors, facts["scheduler"]["_last_lr"]))
    state.strategy.load_state_dict({**_below(tensors, "strategy."), **facts["strategy"]})
    state.done, state.lines = facts["step"], facts["lines"]
    before, now = facts["notes"], {**state.notes, "resumed_at": [state.done]}
    state.notes = before | {name: [*before.get(name, []), *values] for name, values in now.items()}


def _moments(state: State, tensors: Mapping[str, Tensor], rates: list[float]) -> dict[str, Any]:
    """The optimizer's state, its moments distributed as their parameters are."""
    found = state.optimizer.state_dict()
    names = {id(parameter): name for name, parameter in state.parameters.items()}
    order = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    found["state"] = {
        place: {key: _placed(value, p) for key, value in _below(tensors, f"optimizer.{names[id(p)]}.").items()}
        for place, p in enumerate(order)
    }
    for group, rate in zip(found["param_groups"], rates, strict=True):
        group["lr"] = rate
    return found


def _placed(value: Tensor, parameter: torch.nn.Parameter) -> Tensor:
    """A whole value distributed as its parameter is; a count of steps, of no shape, stays as it is."""
    return like(part_of(value, parameter), parameter) if value.shape == parameter.shape else value


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
