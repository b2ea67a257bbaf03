"""Amounts of memory: read, planned, honoured, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rftfast.engine import Sampler, memory
from rftfast.engine.memory import Batch, human, parse_bytes, plan_memory
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.weights import load_weights
from tests.tiny_model import write_tiny_llama

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("123", 123),
        ("1k", 1024),
        ("1K", 1024),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("512M", 512 << 20),
        ("512 MiB", 512 << 20),
        ("4GiB", 4 << 30),
        (" 4g ", 4 << 30),
        ("1.5g", 3 << 29),
        ("0.5KiB", 512),
        ("2T", 2 << 40),
        ("100B", 100),
    ],
)
def test_parse_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "4 apples", "1e9", "4GG", "1.5.2G", "4G 2M", "inf", "nan", "0x10", "."]
)
def test_parse_bytes_refuses(text: str) -> None:
    with pytest.raises(UserError, match="not an amount of memory"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (5 << 20, "5 MiB"),
        (3 << 29, "1.50 GiB"),
        (5 << 40, "5120.00 GiB"),
    ],
)
def test_human(n: int, expected: str) -> None:
    assert human(n) == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plan_counts_the_weights_that_are_loaded(folder: Path, dtype: torch.dtype) -> None:
    config = ModelConfig.from_folder(folder)
    plan = plan_memory(config, dtype, CPU, kv_memory=1 << 20, batch=Batch(64, 64))
    tensors = load_weights(folder, config, dtype).values()
    held = sum(t.numel() * t.itemsize for t in tensors)
    assert held == pytest.approx(plan.weight_bytes, rel=0.02)  # norms are left out
    assert plan.kv_bytes == plan.pages * plan.page_bytes <= 1 << 20 < plan.kv_bytes + plan.page_bytes
    assert plan.tokens == plan.pages * 16
    assert f"{plan.pages:,} pages" in "\n".join(plan.lines())


def test_the_pool_is_as_large_as_the_plan_says(folder: Path) -> None:
    sampler = Sampler.from_pretrained(folder, kv_memory="100KiB", dtype="float32", threads=1)
    data = sampler.pool.data
    assert data.numel() * data.itemsize == sampler.memory.kv_bytes <= 100 << 10
    assert sampler.tree.n_pages == sampler.memory.pages == data.shape[1]


def test_half_of_what_is_free_by_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig.from_folder(folder)
    monkeypatch.setattr(memory, "free_memory", lambda device: 100 << 20)
    plan = plan_memory(config, torch.float32, CPU, kv_memory=None, batch=Batch(64, 64))
    free = (100 << 20) - plan.weight_bytes - plan.activation_bytes
    assert free / 2 - plan.page_bytes < plan.kv_bytes <= free / 2
    with pytest.raises(UserError, match=r"--kv-memory 200 MiB is more than the .* ask for at most"):
        plan_memory(config, torch.float32, CPU, kv_memory=200 << 20, batch=Batch(64, 64))
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(UserError, match="use a smaller model or free memory"):
        plan_memory(config, torch.float32, CPU, kv_memory=None, batch=Batch(64, 64))


def test_files_kept_in_memory_are_free_in_a_container_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(f"{300 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{290 << 20}\n")
    assert memory.free_memory(CPU) == 10 << 20
    (tmp_path / "memory.stat").write_text(f"anon {40 << 20}\nfile {250 << 20}\ninactive_file {240 << 20}\n")
    assert memory.free_memory(CPU) == 250 << 20


def test_what_an_earlier_sampler_left_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch keeps what was freed, and the device does not know that it is."""
    free = [1 << 30]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.__setitem__(0, 100 << 30))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 140 << 30))
    assert memory.free_memory(torch.device("cuda", 0)) == 100 << 30


def test_free_memory_is_believable():
    assert 1 << 20 < memory.free_memory(CPU) < 1 << 50


@pytest.mark.parametrize(
    ("amount", "message"), [("1KiB", "holds no page"), (0, "holds no page"), ("lots", "not an amount")]
)
def test_too_little_memory_is_refused(folder: Path, amount: str | int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampler.from_pretrained(folder, kv_memory=amount, dtype="float32")
