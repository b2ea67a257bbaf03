"""From what was asked for (devices, --gpus, --ray) to something that draws: a ``Sampler``, or a ``Fleet`` of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rftfast.cores import usable_cores
from rftfast.engine.monitor import Monitor
from rftfast.engine.params import Generation, Request
from rftfast.engine.sampler import Sampler
from rftfast.engine.stats import Stats
from rftfast.errors import UserError


class Engine(Protocol):
    """What the pipeline draws with."""

    @property
    def dtype(self) -> str: ...
    @property
    def invariant(self) -> bool: ...
    @property
    def stats(self) -> Stats: ...
    def check_request(self, request: Request) -> None: ...
    def stream(self, requests: Iterable[Request | None], monitor: Monitor | None = None) -> Iterator[Generation]: ...


@dataclass(frozen=True)
class Opened:
    """An engine with what there is to say of it: its kernels, its memory plan and, of several, where they are."""

    engine: Engine
    kernels: str
    memory: tuple[str, ...]
    places: tuple[str, ...]


def devices_of(device: str, gpus: int | None) -> list[str]:
    """``cuda`` and 4 GPUs are cuda:0 to cuda:3; ``cuda:0,cuda:2`` are those two; the same device may stand there twice."""
    names = [name.strip() for name in device.split(",")]
    if not all(names):
        raise UserError(f"device is '{device}': write one, or several with commas between them, as cuda:0,cuda:1")
    if gpus is None:
        return names
    if len(names) > 1 or names[0] not in ("cpu", "cuda"):
        raise UserError(f"--gpus {gpus} names the devices itself: leave --device {device} out")
    if gpus < 1:
        raise UserError(f"--gpus is {gpus}: use at least 1")
    return [f"cuda:{number}" for number in range(gpus)]


def open_engine(
    folder: Path, options: Mapping[str, Any], *, device: str = "cpu", gpus: int | None = None, ray: bool = False
) -> Opened:
    """``options``: as ``Sampler.from_pretrained``, without the device. With ``ray``, one actor for each GPU of the cluster
    (or ``gpus`` of them; for device ``cpu`` one for each device named). Raises UserError for what cannot be had."""
    if ray:
        from rftfast.pipeline.ray_actors import ray_fleet

        fleet = ray_fleet(str(folder), device, gpus, options)
    else:
        devices = devices_of(device, gpus)
        if len(devices) == 1:
            sampler = Sampler.from_pretrained(folder, device=devices[0], **options)
            backend, why = sampler.decoder.ops.backends["attention"]
            return Opened(sampler, f"{backend} ({why})", tuple(sampler.memory.lines()), ())
        from rftfast.pipeline.processes import process_fleet

        fleet = process_fleet(str(folder), devices, shared(devices, options))
    return Opened(fleet, fleet.described.kernels, fleet.described.memory, fleet.places)


def shared(devices: list[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` for each of several engines on one machine: its share of the CPU's threads.

    Raises UserError where engines on one device would each plan with all of its memory.
    """
    most = Counter(devices).most_common(1)[0]
    if most[1] > 1 and options.get("kv_memory") is None:
        raise UserError(f"{most[1]} engines on {most[0]}: say with --kv-memory how much each may use")
    threads = options.get("threads") or max(1, usable_cores() // len(devices))
    return {**options, "threads": threads}
