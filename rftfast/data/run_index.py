"""Where in a run directory each question stands, so that several runs can be read question by question."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

from rftfast.data.manifest import read_manifest
from rftfast.data.parts import StoredQuestion, part_paths, part_row, questions_in
from rftfast.errors import UserError

# Samples are passed over unread; every other line is parsed, so that a part written with other spacing is found, too.
_SAMPLE = b'{"kind": "sample"'


class RunIndex:
    """A run directory, read question by question in any order. Memory: a few numbers for each question.

    ``manifest`` is the content of ``run.json``; ``order`` are the stored questions' ids in the order of ``rft.jsonl``,
    which for a finished run is the order they were asked in. Behind them stand those without a row there (no gold solution
    and no kept path), as they were stored.

    Raises:
        UserError: not a run directory, a damaged part, or a question that stands in two parts.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self._places: dict[str, tuple[Path, int, int, int]] = {}  # id -> part, first line, offset, length
        self._gold_rows_missing = False
        for part in part_paths(self.path / "samples"):
            for name, answer_only, line, offset, length in _heads(part):
                self._gold_rows_missing |= answer_only
                if name in self._places:
                    raise UserError(
                        f"{part}: question {name!r} is also in {self._places[name][0].name}; remove one of the two files"
                    )
                self._places[name] = part, line, offset, length
        if not self._places:
            raise UserError(f"{self.path}: no finished question is stored yet; let 'rftfast sample' run on")
        self.order = self._order()

    def __contains__(self, question_id: str) -> bool:
        return question_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, question_id: str) -> StoredQuestion:
        """The question with all its samples. Raises UserError for a damaged part, naming the line."""
        path, line, offset, length = self._places[question_id]
        try:
            with path.open("rb") as file:
                file.seek(offset)
                block = file.read(length)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the disk") from error
        (question,) = questions_in(path, io.BytesIO(block), line)
        return question

    def _order(self) -> list[str]:
        found: dict[str, None] = {}
        file = self.path / "rft.jsonl"
        if file.is_file():  # only the order is taken from it, and a run can do without
            with file.open("rb") as lines:
                for line in lines:
                    # Samples' rows are parsed only where one may stand first.
                    first = b'"source": "gold"' in line or self._gold_rows_missing
                    if first and (name := _id(line)) in self._places:
                        found[name] = None
        found.update(dict.fromkeys(self._places))
        return list(found)


class StoredQuestions:
    """Reads stored questions of a run that is at work; the parts are looked through when the first one is asked for."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._index: RunIndex | None = None

    def read(self, question_id: str) -> StoredQuestion:
        """Raises as :class:`RunIndex`."""
        if self._index is None or question_id not in self._index:
            self._index = RunIndex(self._path)
        return self._index.read(question_id)


def _heads(part: Path) -> Iterator[tuple[str, bool, int, int, int]]:
    """``(question id, answer_only, line from 1, offset, length in bytes)`` of each question of a part."""
    head: tuple[str, bool, int, int] | None = None
    offset = 0
    try:
        with part.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if head is None or not line.startswith(_SAMPLE):
                    row = part_row(part, number, line)
                    if row["kind"] == "question":
                        if head is not None:
                            yield (*head, offset - head[3])
                        head = row["question_id"], row.get("answer_only") is True, number, offset
                    elif head is None:
                        raise UserError(f"{part}, line {number}: a sample without its question; remove that file")
                offset += len(line)
    except OSError as error:
        raise UserError(f"{part}: cannot be read ({error.strerror or error}); check the disk and its rights") from error
    if head is None:
        raise UserError(f"{part}: empty; remove that file")
    yield (*head, offset - head[3])


def _id(line: bytes) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # the end of a file that is being written
        return ""
    return str(row.get("question_id", "")) if isinstance(row, dict) else ""
