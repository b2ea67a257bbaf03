"""Values of steps in the report: what ``rftfast rollout`` found out of a run's responses, beside their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rftfast.data.record_dir import RecordIndex, is_records
from rftfast.errors import UserError
from rftfast.negatives.records import FOLDER, RolledQuestion
from rftfast.negatives.step_rows import StepTotals, step_row


def rollouts_of(run: Path) -> Path | None:
    """Where the run's rollouts are, unless the user put them elsewhere; None where there are none."""
    folder = run / FOLDER
    return folder if folder.is_dir() else None


def run_of(path: Path) -> Path:
    """The run that the directory of rollouts ``path`` lies in; any other path as it is.

    Raises:
        UserError: rollouts that lie in no run.
    """
    if not is_records(path):
        return path
    if not (path.parent / "samples").is_dir():
        raise UserError(f"{path} holds rollouts and lies in no run; name the run, and this folder with --rollouts")
    return path.parent


class StepValues:
    """A directory of rollouts, read question by question. ``totals`` are the sums over what was read.

    Raises:
        UserError: no such directory, a damaged one, or one that holds other records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.totals = StepTotals()
        self._index = RecordIndex(path)

    def beside(self, question_id: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The question's stored samples, those that were taken apart with ``steps``: ``text``, ``q``, ``advantage`` and, of a
        step to look at, ``mark`` (``pit`` or ``spurious``). Each question once, as its values are added to ``totals``."""
        if question_id not in self._index:
            return list(rows)
        question = RolledQuestion.of(self._index.read(question_id), str(self.path))
        shift = len(question.begin)
        texts = {row["sample_index"]: row["completion"] for row in rows}
        found = {}
        for response in question.responses:
            if texts.get(response.sample_index) != response.text:
                raise UserError(
                    f"{self.path}: question {question_id!r}, sample {response.sample_index}: the rollouts are of another text "
                    "than the run's; name the folder of this run's rollouts with --rollouts, or roll out again"
                )
            found[response.sample_index] = step_row(question, response, best_of=1)
        self.totals.add(question, found.values())
        return [
            {**row, "steps": _steps(found[row["sample_index"]], shift)} if row["sample_index"] in found else row
            for row in rows
        ]


def _steps(row: Mapping[str, Any], shift: int) -> list[dict[str, Any]]:
    """``shift``: characters in front of the response in the row's completion."""
    text = row["completion"][shift:]
    ends = [0, *(step["end"] - shift for step in row["steps"])]
    found = []
    for i, (step, (start, end)) in enumerate(zip(row["steps"], pairwise(ends), strict=True)):
        found.append({"text": text[start:end], "q": step["q"], "advantage": step["advantage"]})
        if i == row["pit"]:
            found[-1]["mark"] = "pit"
        elif step.get("spurious"):
            found[-1]["mark"] = "spurious"
    return found
