"""Names of devices, on a machine with GPUs made up: what torch does with the answer is torch's own code."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rftfast.engine import Sampler, streams
from rftfast.engine.device import find_device
from rftfast.errors import UserError
from tests.tiny_model import write_tiny_llama


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.mark.parametrize(("name", "number"), [("cuda", 1), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_comes_with_its_number(two_gpus: None, name: str, number: int) -> None:
    assert find_device(name) == torch.device("cuda", number)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_the_sampler_can_make_it_the_current_one(
    two_gpus: None, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Reached(Exception):
        pass

    def set_device(number: int) -> None:
        raise Reached(number)

    monkeypatch.setattr(torch._C, "_cuda_setDevice", set_device, raising=False)
    with pytest.raises(Reached, match="1"):
        Sampler.from_pretrained(write_tiny_llama(tmp_path / "model"), device=name)


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "", "CUDA", "cuda:", "cuda:-1", "cuda:one", "cpu:0"])
def test_other_names_are_refused(two_gpus: None, name: str) -> None:
    with pytest.raises(UserError, match="use cpu, cuda or"):
        find_device(name)


def test_a_gpu_that_is_not_there_is_refused(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'cuda:2' was asked for and torch sees 2 GPUs"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="'cuda:0' was asked for and torch sees no GPU"):
        find_device("cuda:0")


def test_a_graph_is_captured_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own stream for that is on the device that captured first, and entering it makes that the current one."""
    captured = []

    class Graph:
        def __init__(
            self, graph: object, pool: object = None, stream: object = None, capture_error_mode: str = ""
        ) -> None:
            captured.append((pool, stream, capture_error_mode))

        def __enter__(self) -> None:
            captured.append("in")

        def __exit__(self, *error: object) -> None:
            captured.append("out")

    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=None))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "a pool")
    streams._capture_stream.cache_clear()
    for number in (0, 1):
        streams.CudaStreams(torch.device("cuda", number)).capture(lambda: captured.append(f"body, gc {gc.isenabled()}"))
        assert gc.isenabled()
        pool, stream, mode = captured[0]
        assert (pool, stream, mode) == ("a pool", f"a stream of cuda:{number}", "thread_local")
        assert captured[1:] == ["in", "body, gc False", "out"]
        captured.clear()
    streams._capture_stream.cache_clear()
