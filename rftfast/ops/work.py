"""The work list of decode attention on a GPU: what it holds and how it lies in one buffer of int32.

Every length is a capacity, fixed when the buffer is made, and the kernels read from it how much of each is in use: one
captured CUDA graph serves whatever tree the list describes. The same arrays lie in the host's copy, where
``rftfast.engine.work_list`` keeps them up to date, and on the device, where changed words are scattered.

A row's path is divided where the path itself says: *splits* of ``split_pages`` pages up to the last full page of its
prompt, and the suffix behind them. A *tile* is up to ``tile_rows`` rows whose pages in one split are the same. Nothing
here depends on who else is in the batch but which rows share a tile, and that changes no result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rftfast.ops.kv import PAGE

SPLIT_PAGES = 32
MAX_SPLITS = 8
"""Partial results a row may have, each as large as its output in float32; beyond, splits are made longer."""
COUNT_ROWS, COUNT_TILES = 0, 1
ROW_TABLE, ROW_KEYS, ROW_PREFIX = 0, 1, 2
TILE_ENTRY, TILE_KEYS, TILE_SPLIT = 0, 1, 2
_LINE = 32  # words: each array begins on a cache line of its own


@dataclass(frozen=True)
class WorkArrays:
    """Views of one buffer, numpy's on the host and torch's on the device; all int32.

    ``counts`` [32]: rows, tiles. ``rows`` [max_rows, 4]: page table, keys the row sees (its own included), keys in its
    prefix, unused. ``tiles`` [max_tiles, 4]: entry of ``split_pages``, keys, number of the split, unused. ``tile_heads``
    [max_tiles, tile_m]: row * group + query head of the group, -1 for none. ``split_pages`` [max_tiles, split_pages]
    and ``tables`` [tables, table_width]: page ids.
    """

    counts: Any
    rows: Any
    tiles: Any
    tile_heads: Any
    split_pages: Any
    tables: Any


@dataclass(frozen=True)
class WorkShape:
    """Capacities and fixed sizes of a work list.

    ``max_rows`` rows at once; ``tables`` page tables of ``table_width`` pages; ``group`` query heads of a key/value head;
    ``tile_m`` queries of a tile; ``split_pages`` pages of a split.
    """

    max_rows: int
    tables: int
    table_width: int
    group: int
    tile_m: int = 64
    split_pages: int = SPLIT_PAGES

    def __post_init__(self) -> None:
        assert 0 < self.max_rows <= self.tables and self.table_width > 0
        assert 1 <= self.group <= 16 and self.tile_m in (16, 32, 64, 128)
        assert self.split_pages % 4 == 0, "a block of keys must not reach into the next split"
        assert self.words < 1 << 31

    @staticmethod
    def plan(max_rows: int, tables: int, table_width: int, group: int) -> WorkShape:
        """With splits as short as ``MAX_SPLITS`` of them reach over ``table_width`` pages."""
        split_pages = SPLIT_PAGES
        while split_pages * MAX_SPLITS < table_width:
            split_pages *= 2
        return WorkShape(max_rows, tables, table_width, group, split_pages=split_pages)

    @property
    def tile_rows(self) -> int:
        return self.tile_m // self.group

    @property
    def splits(self) -> int:
        """Splits a row has at most."""
        return -(-self.table_width // self.split_pages)

    @property
    def max_tiles(self) -> int:
        """Each row in a tile of its own in each split: no tree needs more."""
        return self.max_rows * self.splits

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        return {
            "counts": (_LINE,),
            "rows": (self.max_rows, 4),
            "tiles": (self.max_tiles, 4),
            "tile_heads": (self.max_tiles, self.tile_m),
            "split_pages": (self.max_tiles, self.split_pages),
            "tables": (self.tables, self.table_width),
        }

    @property
    def offsets(self) -> dict[str, int]:
        """First word of each array; under "end", the words in all."""
        offsets, at = {}, 0
        for name, size in self.sizes.items():
            offsets[name] = at
            at += -(-int(np.prod(size, dtype=np.int64)) // _LINE) * _LINE
        return offsets | {"end": at}

    @property
    def words(self) -> int:
        return self.offsets["end"]

    def views(self, buffer: Any) -> WorkArrays:
        """``buffer`` [words] int32, of numpy or torch."""
        offsets = self.offsets
        return WorkArrays(
            **{
                name: buffer[offsets[name] : offsets[name] + int(np.prod(size, dtype=np.int64))].reshape(size)
                for name, size in self.sizes.items()
            }
        )


@dataclass(frozen=True)
class DecodeWork:
    """A work list on the device, and where its launches leave partial results: ``partial`` [S, R, H, D] float32 sums and
    ``stats`` [S, R, H, 2] float32 maxima and normalisers of a row's S splits."""

    shape: WorkShape
    buffer: torch.Tensor
    partial: torch.Tensor
    stats: torch.Tensor

    @staticmethod
    def allocate(shape: WorkShape, heads: int, head_dim: int, device: torch.device | str) -> DecodeWork:
        rows = (shape.splits, shape.max_rows, heads)
        return DecodeWork(
            shape,
            torch.zeros(shape.words, dtype=torch.int32, device=device),
            torch.empty((*rows, head_dim), dtype=torch.float32, device=device),
            torch.empty((*rows, 2), dtype=torch.float32, device=device),
        )

    @staticmethod
    def bytes_needed(shape: WorkShape, heads: int, head_dim: int) -> int:
        return 4 * (shape.words + shape.splits * shape.max_rows * heads * (head_dim + 2))

    @property
    def arrays(self) -> WorkArrays:
        return self.shape.views(self.buffer)

    def apply(self, delta: torch.Tensor) -> None:
        """Writes changed words: ``delta`` [n, 2] int32 on the same device, place and value, no place twice."""
        from rftfast.kernels.work_list import scatter_words

        assert delta.dtype == torch.int32 and delta.is_contiguous() and delta.shape[1] == 2
        if len(delta):
            block = 256
            scatter_words[(-(-len(delta) // block),)](self.buffer, delta, len(delta), BLOCK=block)

    def begin_step(self, positions: torch.Tensor, slots: torch.Tensor, idle_slot: int) -> None:
        """Every row goes one token on: its keys grow by one, and where the new token stands and goes is written to
        ``positions`` [R] int32 and ``slots`` [R] int64 (page * 16 + place). Beyond the list's rows these are 0 and
        ``idle_slot``, which should be a place that no path uses. Part of a captured step."""
        from rftfast.kernels.work_list import begin_step

        count = len(positions)
        assert positions.dtype == torch.int32 and slots.dtype == torch.int64 and len(slots) == count
        assert count <= self.shape.max_rows
        arrays, block = self.arrays, 128
        begin_step[(-(-count // block),)](
            arrays.counts,
            arrays.rows,
            arrays.tables,
            positions,
            slots,
            count,
            self.shape.table_width,
            idle_slot,
            PAGE=PAGE,
            BLOCK=block,
        )
