"""The pool of key/value pages and its layout in memory.

Shape letters, here and in all of ``ops``: L layers, P pages, K key/value heads, H query heads, D head dimension,
R rows (one token each), T page tables, S a table's length, C channels, V vocabulary, N requests to sample.

A page holds 16 tokens of one layer, for each K its keys and, right behind them, its values: 16 * D elements each. The
pool's *layout* says in what order these lie; everything else (shapes, page ids, slots) is the same for both.

``pairs`` (CPUs): keys as [D/w, 16, w] and values as [16/w, D, w] with w = 2 for bfloat16 (two neighbours side by side:
the operand order of the CPU's bf16 dot product) and w = 1 for float32. So sixteen keys, or sixteen channels of a value
pair, are one vector register, for a shared page and a private one alike.

``rows`` (GPUs): keys and values both as [16, D], a token's channels side by side. So a token is one run of 2 * D bytes,
read with 16-byte accesses, a page of one K is one run of 64 * D bytes (8 KiB at D = 128), and a tile of keys goes to
the tensor cores as it lies. Page p of a layer begins at element ``data[layer, p, k, plane]``; offsets pass 2^31.

Both are cases of keys [D/a, 16, a] and values [16/b, D, b]: ``key_width`` a and ``value_width`` b are w and w, or D and 1.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from dataclasses import dataclass
from typing import Literal

import torch

PAGE = 16
Layout = Literal["pairs", "rows"]


@dataclass(frozen=True)
class KVPool:
    """``data`` [L, P, K, 2, 16 * D]: plane 0 holds keys, plane 1 values. Zeroed, so that unused places are finite."""

    data: torch.Tensor
    head_dim: int
    layout: Layout = "pairs"

    @staticmethod
    def allocate(
        layers: int,
        pages: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        layout: Layout | None = None,
    ) -> KVPool:
        """``layout``: None for the device's own. A CPU takes ``rows`` too: Triton's interpreter runs on it in tests."""
        shape = (layers, pages, kv_heads, 2, PAGE * head_dim)
        if torch.device(device).type == "cpu":
            data = _zeroed_on_demand(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
            return KVPool(data, head_dim, layout or "pairs")
        return KVPool(torch.zeros(shape, dtype=dtype, device=device), head_dim, layout or "rows")

    @staticmethod
    def bytes_per_page(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        return layers * kv_heads * 2 * PAGE * head_dim * dtype.itemsize

    @property
    def pages(self) -> int:
        return self.data.shape[1]

    @property
    def key_width(self) -> int:
        return pair_width(self.data.dtype) if self.layout == "pairs" else self.head_dim

    @property
    def value_width(self) -> int:
        return pair_width(self.data.dtype) if self.layout == "pairs" else 1

    def keys_values(self, layer: int, table: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [length, K, D] of the pages in ``table`` [S], unpacked (for the references)."""
        a, b = self.key_width, self.value_width
        pages = self.data[layer, table.long()]  # [S, K, 2, 16*D]
        n, kv_heads, d = pages.shape[0], pages.shape[1], self.head_dim
        keys = pages[:, :, 0].reshape(n, kv_heads, d // a, PAGE, a).permute(0, 3, 1, 2, 4).reshape(-1, kv_heads, d)
        values = pages[:, :, 1].reshape(n, kv_heads, PAGE // b, d, b).permute(0, 2, 4, 1, 3).reshape(-1, kv_heads, d)
        return keys[:length], values[:length]


def _zeroed_on_demand(size: int) -> torch.Tensor:
    """``size`` bytes that read as zero and take memory only where they are written (torch.zeros would write them all).

    In huge pages where the system gives them: the first touch of a small one costs as much as writing it.
    """
    block = mmap.mmap(-1, max(size, mmap.PAGESIZE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system built without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(block, dtype=torch.uint8, count=size)


def pair_width(dtype: torch.dtype) -> int:
    """Neighbours stored side by side: a 32-bit word's worth."""
    return 4 // dtype.itemsize
