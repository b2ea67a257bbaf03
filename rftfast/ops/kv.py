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

A pool with *scales* keeps each number in 8 bits (float8, e4m3): number over scale, rounded to nearest. The scales are powers
of two, so a kept number is one of bfloat16's, too, and attention computes with these as with any others.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from dataclasses import dataclass
from typing import Literal

import torch

PAGE = 16
FLOAT8 = torch.float8_e4m3fn
Layout = Literal["pairs", "rows"]


@dataclass(frozen=True)
class KVPool:
    """``data`` [L, P, K, 2, 16 * D]: plane 0 holds keys, plane 1 values. Zeroed, so that unused places are finite.

    ``scales`` [L, K, 2] float32, powers of two, or None. With them ``data`` is float8 (layout ``rows``), or, emulated, holds
    what float8 would after multiplication with the scale (CPUs: nothing is saved, but paths are drawn as with float8).
    """

    data: torch.Tensor
    head_dim: int
    layout: Layout = "pairs"
    scales: torch.Tensor | None = None

    def __post_init__(self) -> None:
        assert not self.in_float8 or (self.scales is not None and self.layout == "rows")

    @staticmethod
    def allocate(
        layers: int,
        pages: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        layout: Layout | None = None,
        scales: torch.Tensor | None = None,
    ) -> KVPool:
        """``layout``: None for the device's own. A CPU takes ``rows`` too: Triton's interpreter runs on it in tests."""
        shape = (layers, pages, kv_heads, 2, PAGE * head_dim)
        if torch.device(device).type == "cpu":
            data = _zeroed_on_demand(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
            return KVPool(data, head_dim, layout or "pairs", scales)
        data = torch.zeros(shape, dtype=torch.uint8 if dtype == FLOAT8 else dtype, device=device).view(dtype)
        return KVPool(data, head_dim, layout or "rows", scales)

    @staticmethod
    def bytes_per_page(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        return layers * kv_heads * 2 * PAGE * head_dim * dtype.itemsize

    @property
    def in_float8(self) -> bool:
        return self.data.dtype == FLOAT8

    @property
    def raw(self) -> torch.Tensor:
        """``data``, as bytes where torch cannot index it."""
        return self.data.view(torch.uint8) if self.in_float8 else self.data

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
        places = (table.long()[:, None] * PAGE + torch.arange(PAGE, device=table.device)).flatten()[:length]
        return self.get(layer, places)

    def get(self, layer: int, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [R, K, D] at ``slots`` [R] (page * 16 + place); of a pool in float8, in float32."""
        keys, values = self.planes(layer)
        page, place, b = slots // PAGE, slots % PAGE, self.value_width
        keys, values = keys[page, :, :, place].flatten(2), values[page, :, place // b, :, place % b]
        if self.in_float8:
            assert self.scales is not None
            scale = self.scales[layer, :, :, None]
            keys, values = (t.view(FLOAT8).float() * scale[:, i] for i, t in enumerate((keys, values)))
        return keys, values

    def put(self, layer: int, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keeps ``keys`` and ``values`` [R, K, D] at ``slots`` [R]."""
        if self.scales is not None:
            scale = self.scales[layer, :, :, None]
            keys, values = (self._rounded(t, scale[:, i]) for i, t in enumerate((keys, values)))
        to_keys, to_values = self.planes(layer)
        page, place, b = slots // PAGE, slots % PAGE, self.value_width
        to_keys[page, :, :, place] = keys.reshape(*keys.shape[:2], -1, self.key_width)
        to_values[page, :, place // b, :, place % b] = values

    def _rounded(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """``x`` [R, K, D] as it is kept with ``scale`` [K, 1]."""
        kept = (x.float() / scale).to(FLOAT8)
        return kept.view(torch.uint8) if self.in_float8 else (kept.float() * scale).to(self.data.dtype)

    def planes(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of a layer's keys [P, K, D/a, 16, a] and values [P, K, 16/b, D, b]."""
        data, d, a, b = self.raw[layer], self.head_dim, self.key_width, self.value_width
        each = data.shape[:2]
        return data[:, :, 0].view(*each, d // a, PAGE, a), data[:, :, 1].view(*each, PAGE // b, d, b)


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
