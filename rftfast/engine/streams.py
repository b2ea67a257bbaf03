"""The GPU's side of a runner: memory that both sides see, work in order, graphs, and results on their way back.

Everything given to a ``Streams`` happens later, in the order in which it was given, while the host goes on; a ``Mark``
says when. What the device is to read from the host must therefore stay as it is until a mark behind it was waited for,
and what the host is to read is there only then. Tests put a CPU in the GPU's place (``tests/engine/fake_gpu.py``), which
does nothing before it is waited for, so that whoever reads or writes too early is found out without a GPU.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import Protocol

import torch


class Mark(Protocol):
    """A point in the stream of work."""

    def wait(self) -> None:
        """Returns when everything before it is done."""


class Streams(Protocol):
    device: torch.device

    def use(self) -> None:
        """Makes the device the calling thread's. Each thread does so before anything else here."""

    def host_memory(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Memory of the host that the device reads and writes by itself: [size]."""

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copies host memory to the device."""

    def download(self, source: torch.Tensor, target: torch.Tensor) -> Mark:
        """Copies device memory to the host, beside the work that follows. ``source`` must stay as it is until then."""

    def run(self, body: Callable[[], object]) -> None:
        """Does ``body``, which must not read anything back."""

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """Records ``body`` once; each call of what comes back does the same operations on the same memory."""

    def mark(self) -> Mark: ...


class _Event:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._event = torch.cuda.Event()
        self._event.record(stream)

    def wait(self) -> None:
        self._event.synchronize()


class CudaStreams:
    """On a CUDA device: torch's current stream for the work, one beside it for results, and graphs that share memory.

    Graphs share one pool: none runs beside another, and what one leaves behind for later lies in memory of its own that
    was there before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._results = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def use(self) -> None:
        torch.cuda.set_device(self.device)  # Triton launches on the current one, and every thread has its own

    def host_memory(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def upload(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def download(self, source: torch.Tensor, target: torch.Tensor) -> Mark:
        self._results.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._results):
            target.copy_(source, non_blocking=True)
        return _Event(self._results)

    def run(self, body: Callable[[], object]) -> None:
        body()

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with what they do on the device meanwhile.
        mode = "thread_local"
        collects = gc.isenabled()
        gc.disable()  # what an earlier sampler left (graphs, events) must not be destroyed in the midst of it
        try:
            with torch.cuda.graph(graph, self._pool, _capture_stream(self.device), capture_error_mode=mode):
                body()
        finally:
            if collects:
                gc.enable()
        return graph.replay

    def mark(self) -> Mark:
        return _Event(torch.cuda.current_stream(self.device))


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all samplers on a device, for with each stream cuBLAS takes a workspace, and keeps it. Torch's own serves the
    process, and is on the device that was the first to capture: on another one it would make that current."""
    return torch.cuda.Stream(device)
