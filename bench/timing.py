"""Timing one piece of device work: the median of many runs, caches cold, launch gaps left out.

On a CUDA device a run is captured in a graph and replayed between two events, behind a write over several times the L2
cache, which both empties the cache and takes longer than the host needs to have the replay queued when it is due. On a
CPU the host's clock is read around the run. Work that cannot be captured (it waits for its own results, say) is timed as
launched.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP = 3


def median_ms(
    run: Callable[[], object],
    device: torch.device,
    *,
    budget_s: float = 0.05,
    least: int = 5,
    most: int = 200,
    graph: bool = True,
) -> float:
    """Milliseconds of ``run``: the median of as many runs as fit into ``budget_s``, at least ``least`` and at most ``most``."""
    for _ in range(WARM_UP):
        run()
    if device.type != "cuda":
        return _host(run, budget_s, least, most)
    torch.cuda.synchronize(device)
    if not graph:
        return _events(run, device, budget_s, least, most)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        run()
    return _events(captured.replay, device, budget_s, least, most)


def _host(run: Callable[[], object], budget_s: float, least: int, most: int) -> float:
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < budget_s):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _events(run: Callable[[], object], device: torch.device, budget_s: float, least: int, most: int) -> float:
    size = 4 * torch.cuda.get_device_properties(device).L2_cache_size
    sweep = torch.empty(max(size, 1 << 28), dtype=torch.uint8, device=device)

    def timed(count: int) -> list[float]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for before, after in pairs:
            sweep.zero_()
            before.record()
            run()
            after.record()
        torch.cuda.synchronize(device)
        return [before.elapsed_time(after) for before, after in pairs]

    first = timed(least)
    more = int(1e3 * budget_s / max(statistics.median(first), 1e-3)) - least
    return statistics.median(first + timed(min(more, most - least)) if more > 0 else first)
