"""How much memory a sampler takes, decided before anything is allocated."""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from rftfast.engine.gpu_runner import step_shapes
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.ops import fp8
from rftfast.ops.kv import PAGE, KVPool
from rftfast.ops.linear import MAX_ROWS
from rftfast.ops.work import DecodeWork

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
# Of the memory that is free once the weights are in, unless --kv-memory says otherwise. A GPU has nobody else on it; what
# is left there is for graphs and for what the libraries take.
_SHARE_OF_FREE = {"cpu": 0.5, "cuda": 0.9}
_CGROUP = Path("/sys/fs/cgroup")  # a container sees its own there


@dataclass(frozen=True)
class Batch:
    """``max_running`` paths drawn at once; ``max_rows`` rows of a step, these and prompt tokens."""

    max_running: int
    max_rows: int

    @staticmethod
    def of(device: torch.device, max_running: int | None) -> Batch:
        """``max_running`` None: what is usual on such a device. Raises UserError for one it cannot have."""
        gpu = device.type == "cuda"
        most, usual = (4096, 1024) if gpu else (MAX_ROWS, 256)
        if max_running is None:
            max_running = usual
        if not 1 <= max_running <= most:
            raise UserError(
                f"{max_running} paths at the same time: on {'GPUs' if gpu else 'CPUs'} use 1 to {most} (--max-batch)"
            )
        return Batch(max_running, max_running + 2048 if gpu else MAX_ROWS)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by purpose, and the pages that ``kv_bytes`` buys. ``step_bytes``: what a GPU keeps of the running paths, page
    tables and work list among it, and the partial results of attention."""

    weight_bytes: int
    kv_bytes: int
    activation_bytes: int
    pages: int
    page_bytes: int
    step_bytes: int = 0

    @property
    def tokens(self) -> int:
        return self.pages * PAGE

    def lines(self) -> list[str]:
        return [
            f"weights      {human(self.weight_bytes)}",
            f"KV pages     {human(self.kv_bytes)} = {self.pages:,} pages of {PAGE} tokens ({self.tokens:,} tokens)",
            f"activations  {human(self.activation_bytes)}",
            *([f"work lists   {human(self.step_bytes)}"] if self.step_bytes else []),
        ]


def parse_bytes(text: str) -> int:
    """'4GiB', '512M', '1.5g' or a plain number of bytes; units are powers of 1024."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if not found:
        raise UserError(f"'{text}' is not an amount of memory: write for example 4GiB or 512MiB")
    return int(float(found[1]) * _UNITS[found[2]])


def human(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024 or unit == "GiB":
            return f"{n:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{n:.2f} {unit}"
        n /= 1024
    raise AssertionError


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on ``device``; the container's limit counts where there is one."""
    if device.type == "cuda":
        gc.collect()  # an earlier sampler may hang in a cycle
        torch.cuda.empty_cache()  # and torch holds on to what it had
        return torch.cuda.mem_get_info(device)[0]
    free = 1 << 62
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()) + _cached_files())
    return free if free < 1 << 62 else 4 << 30


def _cached_files() -> int:
    """Bytes of files that the container keeps in memory, counts as used, and drops for whoever needs room: after a model has
    been read, as many as it has."""
    stat = _CGROUP / "memory.stat"
    counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
    return int(counts.get("inactive_file", 0))


def plan_memory(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    kv_memory: int | None,
    batch: Batch,
    weights_loaded: bool = False,
    quantization: str | None = None,
    kv_cache_dtype: str = "auto",
) -> MemoryPlan:
    """The plan for one sampler. ``kv_memory`` in bytes, or None for a share of what is free beside the weights.

    Of a quantised model it counts what stays; until the last of its weights is, the others are there in ``dtype``.
    ``kv_cache_dtype``: what keys and values are kept in, one of ``fp8.KV_CACHE``.
    """
    c = config
    layer = (c.heads + 2 * c.kv_heads) * c.head_dim * c.hidden + c.heads * c.head_dim * c.hidden
    layer += 3 * c.intermediate * c.hidden
    # On a CPU in bfloat16 a tied head is kept twice: in rows for the embedding, in blocks for the product.
    heads = 1 if c.tied and not (device.type == "cpu" and dtype == torch.bfloat16) else 2
    each = dtype.itemsize if quantization is None else 1 if device.type == "cuda" else 4  # emulated: in float32
    weights = c.layers * layer * each + heads * c.vocab_size * c.hidden * dtype.itemsize
    widest = max((c.heads + 2 * c.kv_heads) * c.head_dim, 3 * c.intermediate)
    row, logits = 2 * c.hidden * 4 + 2 * widest * dtype.itemsize, c.vocab_size * dtype.itemsize
    step = 0
    if device.type == "cuda":  # graphs have memory of their own, beside that of steps with prompts
        activations = 2 * (batch.max_rows * row + batch.max_running * logits)
        shape, paths = step_shapes(batch.max_running, batch.max_rows, 1 << 30, c.max_positions, c.heads // c.kv_heads)
        step = DecodeWork.bytes_needed(shape, c.heads, c.head_dim) + 4 * (paths.end - paths.base)
    else:
        activations = batch.max_rows * (row + logits)
    kept = fp8.kept_in_pages(dtype, device) if fp8.in_kv_cache(kv_cache_dtype, device) else dtype
    page = KVPool.bytes_per_page(c.layers, c.kv_heads, c.head_dim, kept)
    free = free_memory(device) - activations - step - (0 if weights_loaded else weights)
    if free <= 0:
        raise UserError(
            f"the model needs {human(weights + activations + step)} and {human(free_memory(device))} is free on {device}: "
            "use a smaller model or free memory (a model must fit one device)"
        )
    if kv_memory is None:
        kv_memory = int(free * _SHARE_OF_FREE[device.type])
    elif kv_memory > free:
        raise UserError(
            f"--kv-memory {human(kv_memory)} is more than the {human(free)} that is free beside the weights: "
            f"ask for at most {human(free)}"
        )
    pages = kv_memory // page
    return MemoryPlan(weights, pages * page, activations, pages, page, step)
