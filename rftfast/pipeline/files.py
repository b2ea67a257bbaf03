"""What the commands on finished samples do, between reading and printing: select, export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rftfast.data.export import (
    FORMATS,
    messages_row,
    preference_row,
    prompt_completion_row,
    write_jsonl,
    write_parquet,
)
from rftfast.errors import UserError
from rftfast.select.keys import KEYS
from rftfast.select.pairs import REJECTED, preference_pairs
from rftfast.select.training_rows import Selection, Totals, select_question
from rftfast.select.union import Pool, PooledQuestion


def select_pool(pool: Pool, target: str | Path | None, *, key: str = "reference", dedup: bool = True) -> Totals:
    """Write a pool's training rows as JSONL, gold first; without ``dedup`` every path with the right answer.

    Raises:
        UserError: an unknown key, a source that cannot be read, a disk that refuses.
    """
    _one_of("key", key, KEYS)
    totals = Totals()

    def rows() -> Iterator[dict[str, Any]]:
        for question in pool:
            selection = select_question(question, key)
            totals.add(selection)
            yield from selection.rows(dedup=dedup, models=pool.names_models)

    totals.rows = write_jsonl(target, rows())
    return totals


def export_pool(
    pool: Pool,
    target: str | Path,
    form: str,
    *,
    key: str = "reference",
    dedup: bool = True,
    rejected: str = "random",
    seed: int = 0,
) -> Totals:
    """Write a pool's kept paths in one of ``FORMATS``; see ``preference_pairs`` for ``rejected`` and ``seed``.

    Raises:
        UserError: an unknown format, key or choice; a question without the prompt or the text the format needs; a
            format without a single row (no pair at all).
    """
    _one_of("format", form, FORMATS)
    _one_of("key", key, KEYS)
    _one_of("rejected", rejected, REJECTED)
    totals = Totals()

    def rows() -> Iterator[dict[str, Any]]:
        for question in pool:
            selection = select_question(question, key)
            totals.add(selection)
            if form == "preference":
                yield from _pairs(selection, rejected, seed)
                continue
            for row in selection.rows(dedup=dedup, models=True):
                if form == "messages":
                    yield messages_row(_user(question), row["completion"], question.system)
                else:
                    prompt = _prompt(question)
                    yield row if form == "parquet" else prompt_completion_row(prompt, row["completion"])
        if form == "preference" and totals.questions and not made:
            raise UserError("export: no question has both a kept and a wrong path, so there is no pair; sample more")

    made = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal made
        for row in rows():
            made += 1
            yield row

    totals.rows = write_parquet(target, counted()) if form == "parquet" else write_jsonl(target, counted())
    return totals


def _pairs(selection: Selection, rejected: str, seed: int) -> Iterator[dict[str, Any]]:
    for chosen, wrong in preference_pairs(selection, rejected, seed):
        yield preference_row(_prompt(selection.question), chosen.completion, wrong.completion)


def _prompt(question: PooledQuestion) -> str:
    if question.prompt is None:
        raise UserError(
            f"question {question.id!r} has no prompt; add a column 'prompt' or 'question', or name the --questions file"
        )
    return question.prompt


def _user(question: PooledQuestion) -> str:
    if question.user is None:
        raise UserError(
            f"question {question.id!r}: its text cannot be told from the prompt; name the file it came from with --questions"
        )
    return question.user


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")
