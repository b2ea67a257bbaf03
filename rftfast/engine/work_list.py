"""The host's copy of the GPU's work list, kept up to date as rows come, grow and go.

A row joins with its page table and leaves when its path ends; meanwhile its keys grow by one a step, on the device as
here, and now and then by a page. Each of these changes a few words of the buffer (``rftfast.ops.work`` says what lies
where); ``take_delta`` hands out those that changed since the last time. Rows are dense: the last one takes the place of
one that leaves. What belongs to a path for good (its sampling parameters, its newest token) is therefore best kept under
the number of its page table, which stays.

Rows whose pages in a split are the same form a *group*, and groups are cut into tiles, all but the last of them full. A
full page of a prompt has one place in one path's past, so a run of such pages is known by its last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rftfast.engine.scheduler import SequenceState
from rftfast.engine.tree import PAGE, KVTree
from rftfast.ops.work import COUNT_ROWS, COUNT_TILES, ROW_KEYS, WorkShape


class _Row:
    __slots__ = ("index", "key", "tiles")

    def __init__(self, key: int, index: int) -> None:
        self.key = key
        self.index = index
        self.tiles: list[_Tile] = []  # one for each split of its prefix


class _Group:
    __slots__ = ("entry", "pages", "split", "tiles")

    def __init__(self, entry: int, pages: Sequence[int], split: int) -> None:
        self.entry = entry
        self.pages = pages
        self.split = split
        self.tiles: list[_Tile] = []


class _Tile:
    __slots__ = ("group", "index", "rows")

    def __init__(self, group: _Group, index: int) -> None:
        self.group = group
        self.index = index
        self.rows: list[_Row] = []


class WorkList:
    """``buffer`` [words] int32 is the list as the device should have it, ``arrays`` its parts."""

    def __init__(self, shape: WorkShape) -> None:
        self.shape = shape
        self.buffer = np.zeros(shape.words, dtype=np.int32)
        self.arrays = shape.views(self.buffer)
        self._offsets = shape.offsets
        self._widths = {name: size[-1] for name, size in shape.sizes.items()}
        self._rows: list[_Row] = []
        self._by_key: dict[int, _Row] = {}
        self._tiles: list[_Tile] = []
        self._groups: dict[int, _Group] = {}  # by their last page
        self._entries = list(range(shape.max_tiles - 1, -1, -1))  # free ones
        self._changed: list[tuple[int, int]] = []  # runs of words
        self._paths: dict[int, SequenceState] = {}  # by page table, of those that ``sync`` brought in

    def __len__(self) -> int:
        return len(self._rows)

    def row_of(self, key: int) -> int:
        return self._by_key[key].index

    # -- changes ------------------------------------------------------------------------------------------------

    def join(self, key: int, table: int, pages: Sequence[int], keys: int, prefix_pages: int) -> int:
        """A row for the token at position ``keys`` - 1 of the path in page table ``table``; returns its place.

        ``key`` names it until it leaves. ``prefix_pages``: the full pages of the path's prompt. What the row computes
        depends on ``pages`` and these two numbers alone, so for the same bits give the same whenever it is computed.
        """
        assert key not in self._by_key and len(self._rows) < self.shape.max_rows
        assert prefix_pages * PAGE < keys <= len(pages) * PAGE, "a row sees at least one key behind its prefix"
        row = _Row(key, len(self._rows))
        self._rows.append(row)
        self._by_key[key] = row
        self.set_pages(table, 0, pages)
        self.arrays.rows[row.index] = table, keys - 1, prefix_pages * PAGE, 0  # begin_step makes it ``keys``
        self._touch("rows", row.index)
        for split, first in enumerate(range(0, prefix_pages, self.shape.split_pages)):
            run = pages[first : min(first + self.shape.split_pages, prefix_pages)]
            group = self._groups.get(run[-1])
            if group is None:
                group = self._open_group(run, split)
            tile = group.tiles[-1] if group.tiles else None
            if tile is None or len(tile.rows) == self.shape.tile_rows:
                tile = self._open_tile(group)
            tile.rows.append(row)
            row.tiles.append(tile)
            self._write_heads(tile, len(tile.rows) - 1)
        self._write_counts()
        return row.index

    def leave(self, key: int) -> None:
        row = self._by_key.pop(key)
        for split, tile in enumerate(row.tiles):
            last = tile.group.tiles[-1]  # its last row fills the gap
            mover = last.rows.pop()
            if mover is not row:
                at = tile.rows.index(row)
                tile.rows[at] = mover
                mover.tiles[split] = tile
                self._write_heads(tile, at)
            self._write_heads(last, len(last.rows))
            if not last.rows:
                self._close_tile(last)
        last_row = self._rows.pop()
        if last_row is not row:
            self._rows[row.index] = last_row
            self.arrays.rows[row.index] = self.arrays.rows[last_row.index]
            self._touch("rows", row.index)
            last_row.index = row.index
            for tile in last_row.tiles:
                self._write_heads(tile, tile.rows.index(last_row))
        self._write_counts()

    def set_pages(self, table: int, first: int, pages: Sequence[int]) -> None:
        """Pages number ``first`` and on of a page table."""
        if len(pages):
            self.arrays.tables[table, first : first + len(pages)] = pages
            self._touch("tables", table, first, len(pages))

    def begin_step(self) -> None:
        """What ``DecodeWork.begin_step`` does on the device, done here."""
        self.arrays.rows[: len(self._rows), ROW_KEYS] += 1

    def sync(self, decode: Sequence[SequenceState], tree: KVTree) -> None:
        """Makes the rows those of a step's running sequences, each about to see as many keys as it has tokens."""
        if sum(s.table_ready for s in decode) < len(self._paths):  # those that have a row here, and no others, say so
            staying = {s.slot for s in decode if s.table_ready}
            for slot in [slot for slot in self._paths if slot not in staying]:
                del self._paths[slot]
                self.leave(slot)
        for sequence in decode:
            at = len(sequence.tokens) - 1
            if sequence.table_ready and at % PAGE:
                continue
            leaf, slot = sequence.leaf, sequence.slot
            assert leaf is not None
            if sequence.table_ready:  # the newest token began a page
                assert self._paths[slot] is sequence
                self.set_pages(slot, at // PAGE, leaf.pages[-1:])
            else:
                self.join(slot, slot, tree.table(leaf), at + 1, (sequence.prompt_length - 1) // PAGE)
                self._paths[slot] = sequence
                sequence.table_ready = True

    def take_delta(self) -> np.ndarray:
        """[n, 2] int32: place in the buffer and new value of every word that changed since the last call."""
        if not self._changed:
            return np.empty((0, 2), dtype=np.int32)
        places = np.unique(np.concatenate([np.arange(start, stop) for start, stop in self._changed]))
        self._changed.clear()
        return np.stack([places.astype(np.int32), self.buffer[places]], axis=1)

    # -- tiles and groups ---------------------------------------------------------------------------------------

    def _open_group(self, pages: Sequence[int], split: int) -> _Group:
        group = _Group(self._entries.pop(), pages, split)
        self._groups[pages[-1]] = group
        self.arrays.split_pages[group.entry, : len(pages)] = pages
        self._touch("split_pages", group.entry, 0, len(pages))
        return group

    def _open_tile(self, group: _Group) -> _Tile:
        tile = _Tile(group, len(self._tiles))
        self._tiles.append(tile)
        group.tiles.append(tile)
        self.arrays.tiles[tile.index] = group.entry, len(group.pages) * PAGE, group.split, 0
        self._touch("tiles", tile.index)
        self.arrays.tile_heads[tile.index] = -1
        self._touch("tile_heads", tile.index)
        return tile

    def _close_tile(self, tile: _Tile) -> None:
        """The last tile of its group, and empty; the list's last tile takes its place."""
        group = tile.group
        group.tiles.pop()
        if not group.tiles:
            del self._groups[group.pages[-1]]
            self._entries.append(group.entry)
        last = self._tiles.pop()
        if last is not tile:
            self._tiles[tile.index] = last
            for name in ("tiles", "tile_heads"):
                array = getattr(self.arrays, name)
                array[tile.index] = array[last.index]
                self._touch(name, tile.index)
            last.index = tile.index

    def _write_heads(self, tile: _Tile, at: int) -> None:
        """The query heads of the tile's row number ``at``, or none if it has fewer rows."""
        group = self.shape.group
        heads = self.arrays.tile_heads[tile.index, at * group : (at + 1) * group]
        if at < len(tile.rows):
            first = tile.rows[at].index * group
            heads[:] = range(first, first + group)
        else:
            heads[:] = -1
        self._touch("tile_heads", tile.index, at * group, group)

    def _write_counts(self) -> None:
        self.arrays.counts[COUNT_ROWS] = len(self._rows)
        self.arrays.counts[COUNT_TILES] = len(self._tiles)
        self._touch("counts", 0, 0, 2)

    def _touch(self, name: str, index: int, first: int = 0, count: int | None = None) -> None:
        """Words ``first`` and on of an array's row ``index`` have changed."""
        width = self._widths[name]
        start = self._offsets[name] + index * width + first
        self._changed.append((start, start + (width if count is None else count)))

    # -- for tests ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Verifies that the buffer says what the objects say, and every invariant of this file."""
        a, shape = self.arrays, self.shape
        assert a.counts[:2].tolist() == [len(self._rows), len(self._tiles)]
        assert len(self._by_key) == len(self._rows) <= shape.max_rows
        for index, row in enumerate(self._rows):
            assert row.index == index and self._by_key[row.key] is row
            table, keys, prefix, _ = a.rows[index].tolist()
            assert prefix % PAGE == 0 and prefix <= keys
            assert len(row.tiles) == -(-prefix // (shape.split_pages * PAGE))
            for split, tile in enumerate(row.tiles):
                assert tile.rows.count(row) == 1 and tile.group.split == split
                first = split * shape.split_pages
                pages = a.tables[table, first : min(first + shape.split_pages, prefix // PAGE)].tolist()
                entry, count, number, _ = a.tiles[tile.index].tolist()
                assert (entry, count, number) == (tile.group.entry, len(pages) * PAGE, split)
                assert a.split_pages[entry, : len(pages)].tolist() == pages == list(tile.group.pages)
        for index, tile in enumerate(self._tiles):
            assert tile.index == index and tile in tile.group.tiles and tile.rows
            heads = [r.index * shape.group + g for r in tile.rows for g in range(shape.group)]
            assert a.tile_heads[index].tolist() == heads + [-1] * (shape.tile_m - len(heads))
        for page, group in self._groups.items():
            assert page == group.pages[-1] and group.tiles
            assert all(len(tile.rows) == shape.tile_rows for tile in group.tiles[:-1]), "only the last has room"
        assert sum(len(g.tiles) for g in self._groups.values()) == len(self._tiles)
        assert len(self._entries) + len(self._groups) == shape.max_tiles
        assert not {g.entry for g in self._groups.values()} & set(self._entries)


def chunk_tiles(chunks: Sequence[tuple[int, int, int, int]], tile_rows: int) -> np.ndarray:
    """[*, 4] int32 as ``WorkPlan.chunk_tiles``, those with most keys first, of ``chunks``: first row of the step, rows,
    position of the first, page table."""
    tiles = [
        (first + done, min(tile_rows, rows - done), position + done, table)
        for first, rows, position, table in chunks
        for done in range(0, rows, tile_rows)
    ]
    tiles.sort(key=lambda tile: -tile[2])
    return np.array(tiles, dtype=np.int32).reshape(-1, 4)
