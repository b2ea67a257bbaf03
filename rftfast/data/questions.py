"""Questions with their gold solutions: reading them from a file, the Hub or the bundled set, and their fingerprint."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rftfast.data.readers import Table, read_file, read_table
from rftfast.data.records import Question
from rftfast.errors import UserError

BUNDLED = Path(__file__).parent / "bundled"
# (question column, answer column), the first pair that a table has is taken.
COLUMNS = (
    ("question", "answer"),
    ("query", "response"),
    ("problem", "solution"),
    ("prompt", "completion"),
    ("problem", "answer"),
)
ID_COLUMNS = ("id", "question_id", "uid")

_log = logging.getLogger(__name__)


def load_questions(
    source: str | Path | None = None, *, limit: int | None = None, split: str = "train"
) -> list[Question]:
    """Read questions in the order of their source.

    Args:
        source: a JSONL, JSON or Parquet file, the name of a Hub data set (``owner/name`` or ``owner/name:config``), or
            None for the bundled set of 16 grade-school questions. Columns: question/answer, query/response,
            problem/solution, prompt/completion or problem/answer.
        limit: how many questions from the front are given back; the whole source is read and checked all the same.
        split: the split of a Hub data set, or the key of the list in a JSON object.

    Returns:
        Questions with white space around both texts removed. ``id`` is the source's own column (``id``, ``question_id``
        or ``uid``), or else :func:`question_hash` of the text; without an id column a question that stands there twice is
        kept once, and a warning is logged with the count, and with that of those whose answer is another.

    Raises:
        UserError: anything about the source that cannot be used, with its name, the row and the mend.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be 1 or more (leave it out for all questions)")
    table = read_file(BUNDLED / "questions.jsonl") if source is None else read_table(source, split=split)
    return _questions_of(table)[:limit]


def question_hash(text: str) -> str:
    """The id of a question without one: 64 bits of BLAKE2b over its text without surrounding white space, in hex."""
    return hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def fingerprint(questions: Iterable[Question]) -> str:
    """A hash (128 bits, hex) of the set of questions: ids, texts and gold solutions, whatever their order."""
    rows = []
    for question in questions:
        row = hashlib.blake2b(digest_size=16)
        for text in (question.id, question.question, question.answer):
            data = text.encode()
            row.update(len(data).to_bytes(8, "little") + data)  # lengths, so that no two splits of a text are alike
        rows.append(row.digest())
    return hashlib.blake2b(b"".join(sorted(rows)), digest_size=16).hexdigest()


def _questions_of(table: Table) -> list[Question]:
    question_column, answer_column = _columns_of(table)
    id_column = next((name for name in ID_COLUMNS if any(name in row for _, row in table.rows)), None)
    found: dict[str, Question] = {}
    where_of: dict[str, str] = {}
    dropped: list[str] = []
    contrary: list[str] = []
    for where, row in table.rows:
        text = _text(table, where, row, question_column)
        answer = _text(table, where, row, answer_column)
        if id_column is None:
            key = question_hash(text)
            if key in found:
                if found[key].question != text:
                    raise UserError(f"{table.source}, {where}: its hash is that of {where_of[key]}; add an id column")
                dropped.append(where)
                if found[key].answer != answer:
                    contrary.append(f"{where} against {where_of[key]}")
                continue
        else:
            key = _text(table, where, row, id_column)
            if key in found:
                raise UserError(
                    f"{table.source}, {where}: {id_column} {key!r} is also that of {where_of[key]}; give each row its own"
                )
        found[key] = Question(key, text, answer)
        where_of[key] = where
    if dropped:
        _log.warning(
            "%s: %d of %d rows repeat an earlier question and were dropped (the first: %s)%s; an id column keeps them apart",
            table.source,
            len(dropped),
            len(table.rows),
            dropped[0],
            f", {len(contrary)} of them with another answer ({contrary[0]})" if contrary else "",
        )
    return list(found.values())


def _columns_of(table: Table) -> tuple[str, str]:
    # The columns of the whole table: one row that lacks an answer is that row's mistake, not another kind of table.
    names = dict.fromkeys(name for _, row in table.rows for name in row)
    for pair in COLUMNS:
        if pair[0] in names and pair[1] in names:
            return pair
    wanted = ", ".join("/".join(pair) for pair in COLUMNS)
    for question_column, answer_column in COLUMNS:
        if question_column in names:
            missing = f"column {answer_column!r} beside {question_column!r}"
            break
    else:
        missing = "columns of questions and answers"
    raise UserError(f"{table.source}: no {missing}; found {', '.join(names) or 'no columns'}; use one of {wanted}")


def _text(table: Table, where: str, row: dict[str, Any], column: str) -> str:
    """A cell as text without surrounding white space; whole numbers are written out."""
    value = row.get(column)
    if isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        state = "is empty" if column in row else "is missing"
        raise UserError(f"{table.source}, {where}: {column!r} {state}; fill it in or remove the row")
    if not isinstance(value, str):
        raise UserError(f"{table.source}, {where}: {column!r} is not text ({type(value).__name__}); write it as text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{table.source}, {where}: {column!r} holds half a Unicode pair; remove that character"
        ) from error
    return value.strip()
