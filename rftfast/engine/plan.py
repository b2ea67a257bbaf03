"""The batch plan: which rows share which pages.

Rows stand in depth-first order of the tree, so rows that share pages are neighbours, and what a run of rows has in
common is the shortest common prefix of neighbouring page tables. Rows are cut into tiles (a thread's share of the
attention work); within a tile each run of shared pages becomes one segment, and each row's own rest another.
"""

from __future__ import annotations

import numpy as np

from rftfast.engine.tree import PAGE

TILE_ROWS = 32
_LEAST_TILE_ROWS = 8  # with less, a tile's pages serve too few rows
_ALL = 1 << 30


def tile_rows(rows: int, kv_heads: int, threads: int) -> int:
    """Rows of a tile, so that there are two items of work (tile, key/value head) or more for each thread, if that can be."""
    size = TILE_ROWS
    while size > _LEAST_TILE_ROWS and -(-rows // size) * kv_heads < 2 * threads:
        size //= 2
    return size


def build(
    tables: np.ndarray, slots: np.ndarray, lens: np.ndarray, size: int = TILE_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Tiles [*, 4] and segments [*, 4] (int32) as ``ops.AttentionPlan`` defines them.

    ``tables`` [T, S] int32 page ids; ``slots`` [R] each row's table; ``lens`` [R] keys each row sees. Rows with the
    same table (a chunk of a prompt) stand together. ``size``: rows of a tile.
    """
    shared = _shared_pages(tables, slots, lens)
    tiles: list[tuple[int, int, int, int]] = []
    segments: list[tuple[int, int, int, int]] = []
    rows = len(slots)
    for first in range(0, rows, size):
        last = min(rows, first + size)
        before = len(segments)
        _divide(first, last, 0, shared, segments)
        tiles.append((first, last, before, len(segments)))
    return np.array(tiles, dtype=np.int32), np.array(segments, dtype=np.int32)


def _shared_pages(tables: np.ndarray, slots: np.ndarray, lens: np.ndarray) -> list[int]:
    """For each row but the last, how many full pages it shares with the next one."""
    if len(slots) < 2:
        return []
    full = np.minimum(lens[:-1], lens[1:]) // PAGE
    width = max(1, int(full.max()))
    differ = tables[slots[:-1], :width] != tables[slots[1:], :width]
    first = np.where(differ.any(1), differ.argmax(1), width)
    return np.where(slots[:-1] == slots[1:], _ALL, np.minimum(first, full)).tolist()


def _divide(row0: int, row1: int, page0: int, shared: list[int], segments: list[tuple[int, int, int, int]]) -> None:
    """Segments of rows [row0, row1) from page ``page0`` on, which all of them have in common up to there."""
    if row1 - row0 == 1:
        segments.append((row0, row1, page0, -1))
        return
    common = min(shared[row0 : row1 - 1])
    if common == _ALL:
        segments.append((row0, row1, page0, -1))
        return
    if common > page0:
        segments.append((row0, row1, page0, common))
    start = row0
    for row in range(row0, row1):
        if row == row1 - 1 or shared[row] == common:
            _divide(start, row + 1, max(common, page0), shared, segments)
            start = row + 1
