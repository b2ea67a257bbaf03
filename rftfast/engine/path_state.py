"""What the device keeps of each running path: where its draws come from, how they are cut, and its newest token.

It lies under the number of the path's page table (its *slot*), which stays while rows move: a path is written once, when
it starts, and a step finds everything on the device, the token of the step before included. Slot ``slots`` (the last one)
belongs to nobody: rows without a path read and write there.

The words lie behind those of the work list in the same buffer of int32, so that one scatter brings both up to date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_INT32 = ("drawn", "sample", "top_k", "limit", "table")
_FLOAT32 = ("temperature", "top_p", "min_p")
_INT64 = ("key", "token")
_FIELDS = (*_INT32, *_FLOAT32)


@dataclass(frozen=True)
class NewPath:
    """A path as it starts. ``token`` is its newest one; ``drawn`` how many it has drawn, ``limit`` how many it may;
    ``table`` the row of the stop tables that tells which tokens may end it; the rest as ``ops.sample`` takes it."""

    slot: int
    key: int
    sample: int
    drawn: int
    limit: int
    table: int
    token: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float


@dataclass(frozen=True)
class RowState:
    """Of the rows of a step, each [R] and contiguous, in the types that ``ops.sample`` and ``ops.check_stops`` take."""

    drawn: torch.Tensor
    sample: torch.Tensor
    top_k: torch.Tensor
    limit: torch.Tensor
    table: torch.Tensor
    temperature: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    key: torch.Tensor
    token: torch.Tensor


@dataclass(frozen=True)
class PathShape:
    """Words of the buffer from ``base`` (even) on: a list of page copies [copies, 3], then the fields of ``slots`` + 1
    paths."""

    base: int
    slots: int
    copies: int

    def __post_init__(self) -> None:
        assert self.base % 2 == 0 and self.slots > 0 and self.copies > 0

    @property
    def nobody(self) -> int:
        return self.slots

    @property
    def words64(self) -> int:
        """First word of the 64-bit fields."""
        return self.base

    @property
    def words32(self) -> int:
        return self.words64 + 2 * len(_INT64) * (self.slots + 1)

    @property
    def words_copies(self) -> int:
        return self.words32 + len(_FIELDS) * (self.slots + 1)

    @property
    def end(self) -> int:
        return self.words_copies + 3 * self.copies

    def delta(self, paths: Sequence[NewPath]) -> np.ndarray:
        """[n, 2] int32, place in the buffer and value of every word of ``paths``."""
        if not paths:
            return np.empty((0, 2), dtype=np.int32)
        slots = np.array([p.slot for p in paths], dtype=np.int32)
        places, values = [], []
        for number, name in enumerate(_INT64):
            # A key is any 64 bits; the words of an int64, low one first.
            words = np.array([getattr(p, name) for p in paths], dtype=np.uint64).view(np.int32)
            first = self.words64 + 2 * (number * (self.slots + 1) + slots)
            places.append(np.stack([first, first + 1], axis=1).reshape(-1))
            values.append(words)
        for number, name in enumerate(_FIELDS):
            dtype = np.int32 if name in _INT32 else np.float32
            places.append(self.words32 + number * (self.slots + 1) + slots)
            values.append(np.array([getattr(p, name) for p in paths], dtype=dtype).view(np.int32))
        return np.stack([np.concatenate(places).astype(np.int32), np.concatenate(values)], axis=1)

    def copies_delta(self, copies: Sequence[tuple[int, int, int]]) -> np.ndarray:
        """[n, 2] int32: the list of page copies, ended by a negative source where it is not full."""
        assert len(copies) <= self.copies
        words = [word for copy in copies for word in copy]
        if len(copies) < self.copies:
            words.append(-1)
        return np.stack([self.words_copies + np.arange(len(words), dtype=np.int32), np.array(words, np.int32)], axis=1)


class PathState:
    """The device's views of ``buffer`` [words] int32."""

    def __init__(self, shape: PathShape, buffer: torch.Tensor) -> None:
        self.shape = shape
        each = shape.slots + 1
        self.copies = buffer[shape.words_copies : shape.end].view(shape.copies, 3)
        self._fields64 = buffer[shape.words64 : shape.words32].view(torch.int64).view(len(_INT64), each)
        self._fields32 = buffer[shape.words32 : shape.words_copies].view(len(_FIELDS), each)

    def gather(self, slots: torch.Tensor) -> RowState:
        """``slots`` [R] int64."""
        wide, narrow = self._fields64.index_select(1, slots), self._fields32.index_select(1, slots)
        rows = {name: wide[i] for i, name in enumerate(_INT64)}
        rows |= {name: narrow[i] for i, name in enumerate(_INT32)}
        rows |= {name: narrow[i].view(torch.float32) for i, name in enumerate(_FIELDS) if name in _FLOAT32}
        return RowState(**rows)

    def keep(self, slots: torch.Tensor, token: torch.Tensor, drawn: torch.Tensor) -> None:
        """The newest token and how many there are now, of the rows' paths."""
        self._fields64[_INT64.index("token")].index_copy_(0, slots, token)
        self._fields32[_FIELDS.index("drawn")].index_copy_(0, slots, drawn)
