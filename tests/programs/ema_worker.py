"""Four gloo processes train one small network in many layouts; the first one writes how far each is from a plain run.

Run as a script with the path of the JSON file to write. Every layout sees the same global batches.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from lcia.ema import Curvature, DynamicEma, Official, Options, Paper, Proximal
from lcia.ema.scalar import ScalarAverage
from lcia.ema.sharding import whole

WORLD, STEPS, BATCH, PIECES = 4, 8, 16, 2
# Constants for the regime that such small tensors put the L1 rules in: most betas dynamic, none a difference of two
# nearly equal numbers.
RULES = {
    "paper": Paper(lagrange=10.0, fallback=0.99, reduction="sum"),
    "official": Official(factor=0.01, fallback_alpha=0.01, reduction="sum"),
    "proximal": Proximal("relative", 60.0),
    "curvature": Curvature(0.5, 0.9, 0.3),
}


@dataclass
class Layout:
    """How a run is spread: `ranks` take part; `mesh` for FSDP2, `group` for DDP, neither: one process alone."""

    ranks: list[int]
    mesh: DeviceMesh | None = None
    group: Any = None
    bucket_view: bool = False


def network(dtype: torch.dtype) -> nn.Sequential:
    """First dimensions 7, 3 and 5: uneven over two processes, and the 3 leaves one of four with nothing."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 5)).to(dtype)


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = model(x)
    return (out - x[:, :5].cumsum(1)).pow(2).mean()


class Run:
    """One network in one layout, with its average."""

    def __init__(self, layout: Layout, rule: Any, dtype: torch.dtype, to_none: bool = True) -> None:
        self.layout, self.dtype, self.to_none = layout, dtype, to_none
        self.model: nn.Module = network(dtype)
        old = {name: torch.full_like(p, 0.5) for name, p in self.model.named_parameters()}
        if layout.mesh is not None:
            for module in self.model.children():
                if isinstance(module, nn.Linear):
                    fully_shard(module, mesh=layout.mesh)
            fully_shard(self.model, mesh=layout.mesh)
        self.outer = self.model
        if layout.group is not None:
            self.outer = DistributedDataParallel(
                self.model, process_group=layout.group, gradient_as_bucket_view=layout.bucket_view
            )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        old_curvature = old if isinstance(rule, Curvature) else None
        parameters = self.model.named_parameters()
        self.average = DynamicEma(parameters, rule, Options(), old_curvature).attach(self.optimizer)
        self.betas: list[Tensor] = []

    def synchronise(self, last: bool) -> None:
        if isinstance(self.outer, DistributedDataParallel):
            self.outer.require_backward_grad_sync = last
        elif self.layout.mesh is not None:
            self.outer.set_requires_gradient_sync(last)  # type: ignore[operator]

    def step(self, number: int) -> None:
        whole_batch = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        share = whole_batch.to(self.dtype).chunk(len(self.layout.ranks))[self.layout.ranks.index(dist.get_rank())]
        for piece_number, piece in enumerate(share.chunk(PIECES)):
            self.synchronise(piece_number == PIECES - 1)
            (loss_of(self.outer, piece) / PIECES).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.8)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self.to_none)
        if isinstance(self.average.engine, ScalarAverage):
            self.betas.append(self.average.engine.tally.beta.clone())

    def train(self, first: int = 0, last: int = STEPS) -> Run:
        for number in range(first, last):
            self.step(number)
        return self

    def stars(self) -> dict[str, Tensor]:
        return {name: whole(value).clone() for name, value in self.average.weights().items()}

    def theta(self) -> dict[str, Tensor]:
        return {name: whole(p.detach()).clone() for name, p in self.model.named_parameters()}

    def set_theta(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            value = values[name]
            if isinstance(parameter, DTensor):
                mesh, placements = parameter.device_mesh, parameter.placements
                value = torch.distributed.tensor.distribute_tensor(value, mesh, placements, src_data_rank=None)
            parameter.data.copy_(value)


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of any entry, relative to its tensor's largest entry."""
    return max(float((found[n] - t).abs().max() / t.abs().max()) for n, t in expected.items())


def compare(run: Run, plain: Run) -> dict[str, float]:
    result = {"star": apart(run.stars(), plain.stars()), "theta": apart(run.theta(), plain.theta())}
    if plain.betas:
        betas, expected = torch.stack(run.betas), torch.stack(plain.betas)
        result["beta"] = float(((betas - expected).abs() / expected).max())
        result["dynamic"] = float(((expected[1:] - 0.99).abs() > 1e-9).logical_and(expected[1:] < 1).double().mean())
    mine, other = run.average.statistics(), plain.average.statistics()
    result["statistics"] = max(abs(mine[key] - other[key]) / max(abs(other[key]), 1e-9) for key in other)
    before = run.theta()
    with run.average.swapped():
        result["swapped"] = apart(run.theta(), plain.stars())
    result["restored"] = apart(run.theta(), before)
    return result


def layouts() -> dict[str, Layout]:
    """All processes make all meshes and groups, as gloo demands."""
    two, four = [0, 1], [0, 1, 2, 3]
    return {
        "ddp-2": Layout(two, group=dist.new_group(two)),
        "ddp-4": Layout(four, group=dist.new_group(four)),
        "ddp-2-bucket-view": Layout(two, group=dist.new_group(two), bucket_view=True),
        "fsdp-1": Layout([0], mesh=DeviceMesh("cpu", [0])),
        "fsdp-2": Layout(two, mesh=DeviceMesh("cpu", two)),
        "fsdp-4": Layout(four, mesh=DeviceMesh("cpu", four)),
        "hybrid-2x2": Layout(four, mesh=DeviceMesh("cpu", [[0, 1], [2, 3]], mesh_dim_names=("copy", "shard"))),
    }


def counted_collectives(run: Run) -> int:
    """All-reduces that the average makes in one step."""
    calls, original = 0, dist.all_reduce

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*args, **kwargs)

    after = run.average.engine.after  # type: ignore[union-attr]
    run.average.detach()

    def watched(*args: Any) -> None:
        dist.all_reduce = counting
        try:
            after(run_step)
        finally:
            dist.all_reduce = original

    from lcia.ema.hooks import Step

    run_step = Step()
    handle = run.optimizer.register_step_post_hook(watched)
    run.step(STEPS)
    handle.remove()
    return calls


def work(rank: int, store: str, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    results: dict[str, Any] = {}
    places = layouts()
    for dtype in (torch.float64, torch.float32):
        for rule_name, rule in RULES.items():
            plain = Run(Layout([rank]), rule, dtype).train()
            for name, layout in places.items():
                if rank in layout.ranks:
                    run = Run(layout, rule, dtype, to_none="ddp-4" not in name).train()
                    results[f"{name} {rule_name} {str(dtype)[6:]}"] = compare(run, plain)
                dist.barrier()
    results["collectives"] = collectives(rank, places)
    results["resumed"] = resumed(rank, places)
    if rank == 0:
        Path(file).write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


def collectives(rank: int, places: dict[str, Layout]) -> dict[str, int]:
    found = {}
    for name, layout in places.items():
        if rank in layout.ranks:
            found[name] = counted_collectives(Run(layout, RULES["paper"], torch.float64).train(0, 2))
        dist.barrier()
    return found


def resumed(rank: int, places: dict[str, Layout]) -> dict[str, float]:
    """Saved on two processes after half of the steps, ended on one and on four; distance to the plain run."""
    found = {}
    for rule_name, rule in RULES.items():
        plain = Run(Layout([rank]), rule, torch.float64).train()
        with_saved: list[Any] = [None]
        if rank in (0, 1):
            half = Run(places["fsdp-2"], rule, torch.float64).train(0, STEPS // 2)
            state = {key: whole(value).clone() for key, value in half.average.state_dict().items()}
            with_saved = [(half.theta(), state)]
        dist.broadcast_object_list(with_saved, src=0)
        theta, state = with_saved[0]
        for name, layout in (("one", Layout([rank])), ("fsdp-4", places["fsdp-4"])):
            run = Run(layout, rule, torch.float64)
            run.set_theta(theta)
            run.average.load_state_dict(state)
            found[f"{rule_name} {name}"] = apart(run.train(STEPS // 2).stars(), plain.stars())
    return found


def main(file: str) -> None:
    # Forked after the imports, so that four processes pay for them once.
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        workers = [context.Process(target=work, args=(r, f"{folder}/store", file)) for r in range(WORLD)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))


if __name__ == "__main__":
    main(sys.argv[1])
