"""``rft.jsonl``: the training rows of a run, gold and kept paths of each finished question.

The file is derived from the parts. While a run goes on it is appended to, so that it can be looked at; when a run directory
is opened it is built anew, and at the end it is put into the order of the questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from rftfast.data.atomic import write_atomic, write_errors


class RftFile:
    """The rows of each question and where they stand: ``(offset, length)`` in bytes, in the file's order."""

    def __init__(self, path: Path, blocks: Iterable[tuple[str, bytes]]) -> None:
        """Write ``path`` anew from ``(question id, its lines)``; all of it or, on an error, nothing."""
        self._path = path
        # Replaced as one, so that an interrupt finds either the old or the new.
        self._state: tuple[dict[str, tuple[int, int]], int] = ({}, 0)
        lengths: list[tuple[str, int]] = []

        def chunks() -> Iterator[bytes]:
            for key, block in blocks:
                lengths.append((key, len(block)))
                yield block

        write_atomic(path, chunks())
        self._state = _extended({}, 0, lengths)

    def append(self, blocks: Sequence[tuple[str, bytes]]) -> None:
        """Add the lines of more questions; those that are there already are passed over.

        What an earlier, interrupted append left behind the last question is written over.
        """
        index, end = self._state
        new = [(key, block) for key, block in blocks if key not in index]
        with write_errors(self._path), self._path.open("r+b") as file:
            file.seek(end)
            file.writelines(block for _, block in new)
            file.truncate()
        self._state = _extended(index, end, [(key, len(block)) for key, block in new])

    def reorder(self, order: Sequence[str]) -> None:
        """Put the questions into ``order`` (ids without rows are passed over; the others follow, by id)."""
        index, end = self._state
        known = dict.fromkeys(key for key in order if key in index)
        wanted = [*known, *sorted(index.keys() - known.keys())]
        with write_errors(self._path):
            if wanted == list(index) and self._path.stat().st_size == end:
                return
            with self._path.open("rb") as file:
                write_atomic(self._path, (_range(file, *index[key]) for key in wanted))
        self._state = _extended({}, 0, [(key, index[key][1]) for key in wanted])


def _extended(
    index: dict[str, tuple[int, int]], end: int, lengths: Iterable[tuple[str, int]]
) -> tuple[dict[str, tuple[int, int]], int]:
    longer = dict(index)
    for key, length in lengths:
        longer[key] = (end, length)
        end += length
    return longer, end


def _range(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
