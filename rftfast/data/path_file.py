"""Sampled paths in a JSONL file that another tool wrote, read question by question whatever the order of its rows."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from rftfast.data.jsonl import parse_row, read_rows, text_in
from rftfast.data.questions import question_hash
from rftfast.data.records import VERDICTS
from rftfast.errors import UserError

COMPLETION = ("completion", "response")


@dataclass(frozen=True)
class PathRow:
    """One row: a path of a question, or (``gold``) the question's own solution.

    ``place`` is the row's number among the file's rows of this question, from 0; ``where`` names the row in messages.
    """

    where: str
    place: int
    text: str
    gold: bool
    model: str
    sample_index: int | None
    verdict: str | None
    truncated: bool
    parsed_answer: str | None
    equations: tuple[str, ...] | None
    answer: str | None
    question: str | None
    prompt: str | None


class PathFile:
    """The rows of ``file`` by question. Memory: two numbers for each row.

    Rows are JSON objects with ``question_id`` (or ``question``, whose hash is then the id) and ``completion`` (or
    ``response``); where present, ``sample_index``, ``model``, ``verdict`` with ``parsed_answer`` and ``equations`` (as
    ``rftfast verify`` writes them), ``answer`` (gold), ``prompt``, ``finish_reason``, ``source`` (``gold`` marks a gold
    solution).

    Raises:
        UserError: no rows, or a row that cannot be used, with its line.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._places: dict[str, array[int]] = {}  # id -> line, offset, line, offset, …
        for number, offset, row in read_rows(file, name):
            where = f"{name}, line {number}"
            _path_row(row, where, 0)
            self._places.setdefault(_question_id(row, where), array("q")).extend((number, offset))
        if not self._places:
            raise UserError(f"{name}: no rows; give it at least one path")

    def ids(self) -> Iterator[str]:
        yield from self._places

    def __contains__(self, question_id: str) -> bool:
        return question_id in self._places

    def read(self, question_id: str) -> list[PathRow]:
        """The question's rows in the order of the file.

        Raises:
            UserError: rows with and without ``sample_index``, or two of one model with the same.
        """
        rows = []
        places = self._places[question_id]
        for place, at in enumerate(range(0, len(places), 2)):
            number, offset = places[at], places[at + 1]
            self._file.seek(offset)
            row = parse_row(self._file.readline(), self.name, number)
            rows.append(_path_row(row, f"{self.name}, line {number}", place))
        _check_indices([row for row in rows if not row.gold])
        return rows


def _check_indices(rows: list[PathRow]) -> None:
    seen: dict[tuple[str, int], str] = {}
    for row in rows:
        if (row.sample_index is None) != (rows[0].sample_index is None):
            lacking = row if row.sample_index is None else rows[0]
            raise UserError(f"{lacking.where}: no sample_index, though others of its question have one; add it")
        if row.sample_index is not None:
            first = seen.setdefault((row.model, row.sample_index), row.where)
            if first != row.where:
                raise UserError(
                    f"{row.where}: sample_index {row.sample_index} is also that of {first}; "
                    "number a question's paths apart, or name their models in a column 'model'"
                )


def _question_id(row: dict[str, Any], where: str) -> str:
    if "question_id" in row:
        return text_in(row, ("question_id",), where)
    if "question" in row:
        return question_hash(text_in(row, ("question",), where))
    raise UserError(f"{where}: no column 'question_id' or 'question'; add the one or the other")


def _path_row(row: dict[str, Any], where: str, place: int) -> PathRow:
    if row.get("kind") in ("question", "sample"):
        raise UserError(f"{where}: a part of a run directory; name the run's folder instead")
    index = row.get("sample_index")
    if index is not None and (not isinstance(index, int) or isinstance(index, bool) or index < 0):
        raise UserError(f"{where}: sample_index is {str(index)[:40]!r}; write a whole number from 0")
    verdict = row.get("verdict")
    if verdict is not None and verdict not in VERDICTS:
        raise UserError(f"{where}: verdict is {str(verdict)[:40]!r}; use one of {', '.join(VERDICTS)}")
    equations = row.get("equations") if verdict is not None else None
    if equations is not None and not (isinstance(equations, list) and all(isinstance(e, str) for e in equations)):
        raise UserError(f'{where}: equations is no list of texts; write ["3+4=7", …] or leave it out')
    return PathRow(
        where=where,
        place=place,
        text=text_in(row, COMPLETION, where),
        gold=row.get("source") == "gold",
        model=_optional(row, "model", where) or "",
        sample_index=index,
        verdict=verdict,
        truncated=row.get("finish_reason") == "length",
        parsed_answer=_optional(row, "parsed_answer", where),
        equations=None if equations is None else tuple(equations),
        answer=_optional(row, "answer", where),
        question=_optional(row, "question", where),
        prompt=_optional(row, "prompt", where),
    )


def _optional(row: dict[str, Any], name: str, where: str) -> str | None:
    return None if row.get(name) is None else text_in(row, (name,), where)
