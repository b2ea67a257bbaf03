"""Problems that give away a question of the evaluation: they share a run of words with it.

A run is ``size`` words long (case, punctuation and spacing do not count, numbers do). An evaluation question with fewer
words counts where it stands whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rftfast.data.records import Question
from rftfast.errors import UserError
from rftfast.synth.duplicates import words


@dataclass(frozen=True)
class Overlap:
    """``words`` are the first run that a text shares with the evaluation question ``question_id``."""

    question_id: str
    words: str


class Evaluation:
    """The word runs of evaluation questions. Memory: each run once."""

    def __init__(self, questions: Iterable[Question], size: int = 10) -> None:
        if size < 3:
            raise UserError(f"n-grams of {size} words are in every text: use at least 3")
        self._size = size
        self._runs: dict[int, dict[tuple[str, ...], str]] = {}
        for question in questions:
            found = words(question.question)
            length = min(size, len(found))
            runs = self._runs.setdefault(length, {})
            for i in range(len(found) - length + 1):
                runs.setdefault(tuple(found[i : i + length]), question.id)

    def overlap(self, text: str) -> Overlap | None:
        """The first run of ``text`` that is also one of an evaluation question, longer ones first."""
        found = words(text)
        for length in sorted(self._runs, reverse=True):
            runs = self._runs[length]
            for i in range(len(found) - length + 1):
                run = tuple(found[i : i + length])
                if length and run in runs:
                    return Overlap(runs[run], " ".join(run))
        return None
