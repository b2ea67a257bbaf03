"""Verdicts for JSONL rows that another tool wrote, a few hundred at a time, and anew for the samples of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rftfast.data.jsonl import read_rows, text_in
from rftfast.data.path_file import COMPLETION
from rftfast.data.records import Verdict
from rftfast.data.run_index import RunIndex
from rftfast.errors import UserError
from rftfast.verify.answers import cut
from rftfast.verify.policy import Policy
from rftfast.verify.verifier import verify, verify_batch

_ROWS = 512
_CHARS = 4_000_000


def verify_rows(
    lines: Iterable[bytes], name: str, policy: Policy = Policy(), stops: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The JSON objects in ``lines``, in order, each with ``verdict``, ``parsed_answer`` and ``equations`` added.

    A row has ``completion`` (or ``response``) and ``answer``, the gold solution or its number; ``finish_reason``
    ``length`` says that its length ended it. All other columns are passed on; earlier verdicts are replaced. ``stops``
    cut the text that is judged, not the row's. ``name`` stands for the file in messages. Memory: at most 512 rows or
    (but for one row) 4 million characters.

    Raises:
        UserError: no rows, or a row that cannot be used, with its line; the rows before it may have been given by then.
    """
    waiting: list[tuple[str, dict[str, Any], str, str]] = []
    size, seen = 0, False
    for number, _, row in read_rows(lines, name):
        where = f"{name}, line {number}"
        text = cut(text_in(row, COMPLETION, where), stops)
        gold = text_in(row, ("answer",), where)
        waiting.append((where, row, text, gold))
        size += len(text) + len(gold)
        seen = True
        if len(waiting) >= _ROWS or size >= _CHARS:
            yield from _judged(waiting, policy)
            waiting, size = [], 0
    if not seen:
        raise UserError(f"{name}: no rows; give it at least one")
    yield from _judged(waiting, policy)


def verify_run(index: RunIndex, policy: Policy = Policy(), stops: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """A run's samples as rows, by question and sample index, judged by ``policy`` in place of the run's own.

    They have ``question_id``, ``prompt``, ``completion`` (as a training row has it), ``answer`` (the gold solution),
    ``sample_index``, ``finish_reason``, and the columns that ``verify_rows`` adds. Memory: one question.

    Raises:
        UserError: a damaged part, or a gold solution that ``policy`` cannot read, with its question.
    """
    for name in index.order:
        stored = index.read(name)
        samples = sorted(stored.samples, key=lambda sample: sample["sample_index"])
        texts = [cut(sample["completion"], stops) for sample in samples]
        ended = [sample.get("finish_reason") == "length" for sample in samples]
        try:
            verdicts = verify_batch(texts, [stored.gold] * len(texts), policy, truncated=ended)
        except UserError as error:
            raise UserError(f"{index.path}, question {name!r}: {error}") from None
        for sample, text, verdict in zip(samples, texts, verdicts, strict=True):
            row = {
                "question_id": name,
                "prompt": stored.prompt,
                "completion": stored.begin + text.lstrip(),
                "answer": stored.gold,
                "sample_index": sample["sample_index"],
                "finish_reason": sample.get("finish_reason"),
            }
            yield row | _columns(verdict)


def _columns(verdict: Verdict) -> dict[str, Any]:
    return {"verdict": verdict.verdict, "parsed_answer": verdict.answer, "equations": list(verdict.equations)}


def _judged(rows: list[tuple[str, dict[str, Any], str, str]], policy: Policy) -> Iterator[dict[str, Any]]:
    ended = [row.get("finish_reason") == "length" for _, row, _, _ in rows]
    try:
        verdicts: Iterable[Verdict] = verify_batch(
            [text for _, _, text, _ in rows], [gold for _, _, _, gold in rows], policy, truncated=ended
        )
    except UserError:  # one gold among them has no number: which?
        verdicts = _one_by_one(rows, ended, policy)
    for (_, row, _, _), verdict in zip(rows, verdicts, strict=True):
        yield row | _columns(verdict)


def _one_by_one(
    rows: list[tuple[str, dict[str, Any], str, str]], ended: list[bool], policy: Policy
) -> Iterator[Verdict]:
    for (where, _, text, gold), truncated in zip(rows, ended, strict=True):
        try:
            yield verify(text, gold, policy, truncated=truncated)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
