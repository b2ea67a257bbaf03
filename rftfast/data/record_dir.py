"""A directory of records that are made one after the other, at a cost, and must neither be lost nor made twice.

::

    run.json                 resolved configuration, fingerprints, versions (as of a run directory)
    parts/part-00000.jsonl   one record a line, each with an id of its own
    metrics.jsonl            one line of figures at a time

Each part is written under a temporary name, forced to the disk and renamed. So a record is there whole or not at all, and
whoever goes on makes just those that are not there. What is derived from the records is written at the end, in an order
of their ids, so that its bytes do not depend on when each record was made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rftfast.data.atomic import mend_lines, remove_temporary, write_atomic, write_errors
from rftfast.data.held_dir import METRICS_FILE, HeldDir
from rftfast.data.lock import RunLock
from rftfast.data.manifest import RUN_FILE, check_folder, open_manifest, read_manifest
from rftfast.data.parts import json_line, part_number, part_path, part_paths
from rftfast.errors import UserError

_PARTS = "parts"
_MEND = "remove that file and run the same command again: its records are made once more"


class RecordDir(HeldDir):
    """A directory opened for writing, by one process and from one thread. Built by :meth:`open`; a context manager."""

    def __init__(self, path: Path, lock: RunLock, policy: tuple[int, float], clock: Callable[[], float]) -> None:
        super().__init__(path, lock)
        self.resumed = False
        self._parts = path / _PARTS
        self._commit_records, self._commit_seconds = policy
        self._clock = clock
        self._stored: dict[str, str] = {}  # id -> its part's name
        self._buffer: dict[str, bytes] = {}
        self._buffer_since = 0.0
        self._next_part = 0

    @classmethod
    def open(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        fingerprints: Mapping[str, Any],
        versions: Mapping[str, Any],
        *,
        notes: Mapping[str, Any] | None = None,
        commit_records: int = 16,
        commit_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> RecordDir:
        """Create a directory, or go on with one of the same ``config`` and ``fingerprints``.

        ``versions`` and ``notes`` are recorded, not compared. A part is written when ``commit_records`` wait, or when the
        first of them has waited ``commit_seconds`` and another comes.

        Raises:
            UserError: another configuration, another process at work, a folder of something else, a damaged part, a record
                in two parts, or a disk that refuses.
        """
        assert commit_records >= 1, commit_records
        path = Path(path)
        with write_errors(path):
            check_folder(path)
            path.mkdir(parents=True, exist_ok=True)
        lock = RunLock(path)
        directory = cls(path, lock, (commit_records, commit_seconds), clock)
        try:
            remove_temporary(path)
            directory.resumed = open_manifest(path, config, fingerprints, versions, notes or {})
            with write_errors(path):
                directory._parts.mkdir(exist_ok=True)
            remove_temporary(directory._parts)
            directory._load()
            mend_lines(path / METRICS_FILE)
            event = "resume" if directory.resumed else "start"
            directory.metrics({"event": event, "versions": versions, "notes": notes or {}})
        except BaseException:
            lock.release()
            raise
        return directory

    def done(self) -> set[str]:
        """Ids of the records that are stored in parts."""
        return set(self._stored)

    def add(self, record: Mapping[str, Any]) -> None:
        """Hand in a record: JSON's own types, with its ``id``.

        Raises:
            UserError: a part was due and could not be written; the record waits on, and :meth:`commit` may be called again.
        """
        name = record["id"]
        assert name not in self._stored and name not in self._buffer, f"{name} was handed in already"
        if not self._buffer:
            self._buffer_since = self._clock()
        self._buffer[name] = json_line(dict(record))
        waited = self._clock() - self._buffer_since
        if len(self._buffer) >= self._commit_records or waited >= self._commit_seconds:
            self.commit()

    def commit(self) -> None:
        """Write the records that wait as one part; nothing waiting, nothing done. May be called again after any error.

        Raises:
            UserError: the disk is full or refuses; no half part is left behind.
        """
        # An interrupt may have fallen between the renaming of a part and its entry below: the disk knows.
        while (path := part_path(self._parts, self._next_part)).exists():
            self._enter(path, [record["id"] for record in _read_part(path)])
        if self._buffer:
            names = list(self._buffer)
            write_atomic(path, [self._buffer[name] for name in names])
            self._enter(path, names)

    def _load(self) -> None:
        for part in part_paths(self._parts):
            for record in _read_part(part):
                if (name := record["id"]) in self._stored:
                    raise UserError(f"{part}: record {name!r} is also in {self._stored[name]}; {_MEND}")
                self._stored[name] = part.name
            self._next_part = part_number(part) + 1

    def _enter(self, part: Path, names: list[str]) -> None:
        """Take note of a part that is on the disk. Every step may be repeated, as :meth:`commit` promises."""
        for name in names:
            self._stored[name] = part.name
        for name in names:
            self._buffer.pop(name, None)
        self._next_part = part_number(part) + 1


def is_records(path: Path) -> bool:
    """Whether ``path`` is such a directory (and not a run directory, which holds samples)."""
    return (path / RUN_FILE).is_file() and (path / _PARTS).is_dir()


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """All stored records of a directory, part by part; of one at work, those stored so far.

    Raises:
        UserError: no such directory, or a damaged part.
    """
    read_manifest(Path(path))
    for part in part_paths(Path(path) / _PARTS):
        yield from _read_part(part)


class RecordIndex:
    """The stored records of a directory, by id and in any order. Memory: a few numbers for each.

    Raises:
        UserError: no such directory, or a damaged part.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._places: dict[str, tuple[Path, int, int]] = {}  # id -> part, line from 1, offset
        for part in part_paths(self.path / _PARTS):
            for number, offset, record in _lines(part):
                self._places[record["id"]] = part, number, offset

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, name: str) -> dict[str, Any]:
        part, number, offset = self._places[name]
        try:
            with part.open("rb") as file:
                file.seek(offset)
                return _record(part, number, file.readline())
        except OSError as error:
            raise UserError(f"{part}: cannot be read ({error.strerror or error}); check the disk") from error


def _read_part(part: Path) -> Iterator[dict[str, Any]]:
    for _, _, record in _lines(part):
        yield record


def _lines(part: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(line from 1, offset in bytes, record) of each record of a part."""
    number = offset = 0
    try:
        with part.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, offset, _record(part, number, line)
                offset += len(line)
    except OSError as error:
        raise UserError(f"{part}: cannot be read ({error.strerror or error}); check the disk and its rights") from error
    if not number:
        raise UserError(f"{part}: empty; {_MEND}")


def _record(part: Path, number: int, line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise UserError(f"{part}, line {number}: cut short; {_MEND}")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{part}, line {number}: invalid JSON; {_MEND}") from error
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise UserError(f"{part}, line {number}: not a record; {_MEND}")
    return record
