"""Engines as Ray actors, on one machine or many (package ``ray``, extra ``rftfast[ray]``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rftfast.engine.monitor import Monitor
from rftfast.engine.params import Request
from rftfast.errors import UserError
from rftfast.pipeline.engine_host import Collected, Described, EngineHost
from rftfast.pipeline.fleet import EngineLost, Fleet


class _Actor:
    """Loads its engine in a method, so that what the engine says of bad options reaches the parent as it is."""

    def load(self, folder: str, options: Mapping[str, Any]) -> Described:
        self._host = EngineHost(folder, options)
        return self._host.describe()

    def check(self, request: Request) -> str | None:
        return self._host.check(request)

    def start(self, monitor: Monitor | None) -> None:
        self._host.start(monitor)

    def submit(self, request: Request) -> None:
        self._host.submit(request)

    def collect(self, wait_s: float) -> Collected:
        return self._host.collect(wait_s)


class RayEngine:
    """A ``fleet.Remote``: an actor with an ``EngineHost``. The model's folder must be readable under one path everywhere."""

    def __init__(self, name: str, folder: str, options: Mapping[str, Any], gpus: int) -> None:
        import ray

        self._ray = ray
        self.name = name
        # Two calls at a time: a request is taken while another call waits for paths.
        wanted: dict[str, Any] = {"num_gpus": gpus, "num_cpus": 0 if gpus else 1, "max_concurrency": 2}
        actor: Any = ray.remote(_Actor)
        self.actor = actor.options(**wanted).remote()
        self._loading = self.actor.load.remote(folder, dict(options))
        self.asked: Any = None

    def describe(self) -> Described:
        found: Described = self._get(self._loading)
        return found

    def check(self, request: Request) -> str | None:
        found: str | None = self._get(self.actor.check.remote(request))
        return found

    def start(self, monitor: Monitor | None) -> None:
        self._get(self.actor.start.remote(monitor))

    def submit(self, request: Request) -> None:
        self.actor.submit.remote(request)

    def ask(self, wait_s: float) -> None:
        self.asked = self.actor.collect.remote(wait_s)

    def answer(self) -> Collected:
        found: Collected = self._get(self.asked)
        return found

    def close(self) -> None:
        self._ray.kill(self.actor)

    def _get(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayActorError as error:
            raise EngineLost(" ".join(str(error).split())[:300]) from None


def ray_fleet(folder: str, device: str, gpus: int | None, options: Mapping[str, Any]) -> Fleet:
    """One actor for each GPU of the cluster (at most ``gpus``); on ``cpu`` devices, one for each named.

    Joins the cluster that RAY_ADDRESS names, or starts one on this machine. Raises UserError without ray or without GPUs.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs the package ray: pip install 'rftfast[ray]'") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    names = [name.strip() for name in device.split(",")]
    on_cpu = gpus is None and all(name == "cpu" for name in names)
    if on_cpu:
        count = len(names)
    else:
        there = int(ray.cluster_resources().get("GPU", 0))
        count = there if gpus is None else gpus
        if not 1 <= count <= there:
            raise UserError(f"--ray: {count} GPUs were asked for and the cluster has {there}")
    # Ray gives an actor its own GPU, which is cuda:0 there.
    own = {**options, "device": "cpu" if on_cpu else "cuda:0"}
    engines = [RayEngine(f"actor {number}", folder, own, 0 if on_cpu else 1) for number in range(count)]

    def ready(remotes: Sequence[Any]) -> Sequence[Any]:
        done, _ = ray.wait([remote.asked for remote in remotes], num_returns=1)
        return [remote for remote in remotes if remote.asked in done]

    return Fleet(engines, ready)
