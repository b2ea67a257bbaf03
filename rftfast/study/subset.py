"""Parts of what there is: a share of the questions, the first k of the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from rftfast.data.export import write_jsonl
from rftfast.data.records import Question
from rftfast.errors import UserError
from rftfast.select.keys import KEYS
from rftfast.select.training_rows import Totals, select_question
from rftfast.select.union import Pool


def draw_part(questions: Sequence[Question], fraction: float, limit: int | None, seed: int) -> list[Question]:
    """A random part, in the order of the source. For one seed, smaller parts are parts of larger ones."""
    if not 0 < fraction <= 1:
        raise UserError(f"fraction is {fraction}; it is a share of the questions, above 0 and up to 1")
    count = max(1, round(fraction * len(questions)))
    if limit is not None:
        count = min(count, limit)
    order = list(range(len(questions)))
    Random(f"rftfast part {seed}").shuffle(order)
    return [questions[i] for i in sorted(order[:count])]


def select_first(
    runs: Sequence[str], target: Path, *, first: int | None = None, dedup: bool = True, key: str = "reference"
) -> dict[str, Any]:
    """Write the training rows that the first ``first`` samples a question (of each run; None: all) would have given.

    A sample is a function of its index, so these are the rows of a run with ``--k first``.

    Returns:
        questions, rows, samples a question, accepted, distinct_sampled (S) and distinct_with_gold (U), the last three
        as means a question.

    Raises:
        UserError: what reading the runs raises; runs with fewer samples than ``first``.
    """
    if key not in KEYS:
        raise UserError(f"key is {key!r}; choose one of {', '.join(KEYS)}")
    totals = Totals()
    with Pool(list(runs)) as pool:

        def rows() -> Iterator[dict[str, Any]]:
            for question in pool:
                if first is not None:
                    kept = tuple(c for c in question.candidates if c.sample_index < first)
                    if len(kept) < first * len({c.model for c in question.candidates}):
                        raise UserError(
                            f"question {question.id!r} has fewer than {first} samples; sample with a larger --k"
                        )
                    question = replace(question, candidates=kept)
                selection = select_question(question, key)
                totals.add(selection)
                yield from selection.rows(dedup=dedup, models=pool.names_models)

        totals.rows = write_jsonl(target, rows())
    n = max(totals.questions, 1)
    return {
        "questions": totals.questions,
        "rows": totals.rows,
        "samples": totals.paths / n,
        "right_answer": totals.right_answer / n,
        "accepted": totals.accepted / n,
        "distinct_sampled": totals.sampled / n,
        "distinct_with_gold": totals.union / n,
    }
