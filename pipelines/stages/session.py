"""A session: Ray, the broker, and the servers that train and answer until the session is over."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lcia.store.folders import Store
from lcia.store.lease import Lease, SupersededError
from lcia.types import InputError
from pipelines import exits
from pipelines.exits import SERVER_THREAD, describe
from pipelines.launch import LaunchConfig
from pipelines.stages.broker import Broker, BrokerHandle, start_broker
from pipelines.stages.execute import RayExecutor, Watcher
from pipelines.stages.work import ServerKind

if TYPE_CHECKING:
    from pipelines.stages.private import PrivateRay

JOIN_SECONDS = 90.0
"""Seconds to wait for the servers to finish; they may still be importing."""
HURRY_SECONDS = 1.0
"""The same after Ctrl-C."""


@contextlib.contextmanager
def session(launch: LaunchConfig, *watchers: Watcher, lease: Lease | None = None) -> Iterator[RayExecutor]:
    """An executor on Ray. Ray starts when a stage is missing, and ends with the block.

    A session that has lost its `lease` ends with SupersededError.
    """
    launch = launch.settled()
    backend = Backend(launch, lease)
    guards: tuple[Watcher, ...] = (lambda _: lease.check_now_and_then(),) if lease else ()
    try:
        yield RayExecutor(launch, backend.start, *guards, *watchers)
    except BaseException as error:
        # Stages under way are not waited for: their last checkpoints are in the store.
        backend.close(hurry=isinstance(error, KeyboardInterrupt | SupersededError))
        raise
    else:
        backend.close(hurry=False)


class Backend:
    """Ray with a session's broker and servers; nothing runs before start()."""

    def __init__(self, launch: LaunchConfig, lease: Lease | None = None) -> None:
        self._launch, self._lease = launch, lease
        self._broker: BrokerHandle | None = None
        self._servers: Sequence[threading.Thread] = ()
        self.local: PrivateRay | None = None

    def start(self) -> BrokerHandle:
        """The broker. The servers start with it, so that their imports (tens of seconds) overlap with other work."""
        if self._broker is None:
            self.local = connect_to_ray(self._launch)
            self._broker = start_broker(f"lcia-broker-{uuid.uuid4().hex[:8]}")
            self._servers = self._start_servers(self._broker)
        return self._broker

    def _start_servers(self, broker: BrokerHandle) -> list[threading.Thread]:
        # Before any thread does: what two threads import at once may be half there for one of them.
        if self.local:
            import pipelines.stages.onenode  # noqa: F401
        else:
            import ray.train.torch  # noqa: F401

        from pipelines.stages import evaluate, train

        launch, folder = self._launch, str(self.local.folder) if self.local else ""
        publisher = evaluate.Publisher(Store(launch.store_root), broker)
        jobs: list[tuple[ServerKind, Callable[[], None]]] = [
            ("train", partial(train.serve, launch, broker, f"group{group}", folder, self._lease))
            for group in range(launch.train_groups)
        ]
        jobs += [("eval", partial(evaluate.serve, launch, broker, publisher))] * launch.eval_actors
        threads = [
            threading.Thread(
                target=_run_server, args=(kind, job, broker), name=f"{SERVER_THREAD}-{number}", daemon=True
            )
            for number, (kind, job) in enumerate(jobs)
        ]
        broker.ask(Broker.expect, {"train": launch.train_groups, "eval": launch.eval_actors})
        for thread in threads:
            thread.start()
        return threads

    def close(self, hurry: bool) -> None:
        """Ends the session and the Ray that it has started; a process that ends by leave() leaves all that to it.

        While a server thread is inside Ray, stopping Ray would crash the process: then Ray goes on until leave().
        """
        if self._broker is None or (self.local and exits.leave_announced()):
            return
        import ray

        if hurry:
            # A thread of Ray Data would print a traceback, after the last line, when Ray has gone.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        self._broker.ask(Broker.close)
        ended = _join(self._servers, HURRY_SECONDS if hurry else JOIN_SECONDS)
        ray.kill(self._broker.actor)
        if self.local and ended:
            self.local.stop()


def connect_to_ray(launch: LaunchConfig) -> PrivateRay | None:
    """Connects to the cluster that the launch or RAY_ADDRESS names, else starts a local Ray and returns it.

    Where this process is connected to a Ray already, that one is used.

    Raises:
        InputError: that cluster is open to all who reach it, and the launch does not say that it may be.
    """
    import ray

    if ray.is_initialized():
        return None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if address := launch.ray_address or os.environ.get("RAY_ADDRESS"):
        context = ray.init(address=address, logging_level="warning", log_to_driver=False)
        if launch.ray_auth == "token":
            _refuse_an_open_one(context.dashboard_url)
        return None
    return _start_local_ray(launch)


def _refuse_an_open_one(dashboard: str | None) -> None:
    import ray

    from pipelines.stages.tokens import check_token

    try:
        check_token(dashboard)
    except InputError:
        ray.shutdown()
        raise


def _start_local_ray(launch: LaunchConfig) -> PrivateRay:
    from pipelines.stages.private import PrivateRay

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # This machine is not a spot instance, which is taken away with a notice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Workers and actors share the cores; what they hold must fit, and Ray Data needs CPUs for tasks of its own.
    return PrivateRay(max(os.cpu_count() or 1, int(launch.cpus) + 2), launch.object_store_memory)


def _run_server(kind: ServerKind, job: Callable[[], None], broker: BrokerHandle) -> None:
    """A server that fails tells the broker, which tells all who wait; the error is shown there."""
    import ray

    try:
        job()
    except Exception as error:  # noqa: BLE001 - it crosses a thread: told to all who wait, not swallowed
        with contextlib.suppress(ray.exceptions.RayError):
            broker.ask(Broker.server_failed, kind, describe(error))


def _join(threads: Sequence[threading.Thread], patience: float) -> bool:
    """Waits for the servers; whether all have ended."""
    deadline = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
