"""Positives, negatives and the counts of a run."""

from __future__ import annotations

from pathlib import Path

from rftfast.data.run_dir import RunDir
from rftfast.negatives.responses import Census, Counts, Response, negatives, positives
from tests.negatives.hand_made import NONE, RIGHT, SAMPLES, SLIP, WRONG, make_run

MORE = [*SAMPLES, (WRONG[0], "eos"), ("Halt <<1+1=3>>", "false_equation"), ("", "eos"), (NONE, "eos")]


def responses(path: Path) -> list[Response]:
    (stored,) = RunDir.read_questions(make_run(path, MORE))
    return [Response.of(row) for row in stored.samples]


def test_who_is_what(tmp_path: Path) -> None:
    found = responses(tmp_path / "run")
    assert [r.text for r in positives(found)] == [RIGHT[0], SLIP, RIGHT[1]], "rewarded, whatever the equations"
    assert [r.text for r in found if r.correct] == RIGHT
    assert [r.text for r in negatives(found)] == WRONG, "a text that came twice counts once"
    assert [r.text for r in negatives(found, unfinished=True)] == [*WRONG, NONE]
    assert [r.sample_index for r in negatives(reversed(found), 1)] == [1], "the first by sample index"
    assert [r.complete for r in found] == [True] * 5 + [False, True, False, True, True]


def test_counts(tmp_path: Path) -> None:
    (stored,) = RunDir.read_questions(make_run(tmp_path / "run", MORE))
    counts = Counts.of(stored)
    assert counts == Counts("q", 10, 3, 2, 1, 3, 1)
    none = Counts("r", 4, 0, 4, 0, 0, 0)
    census = Census([counts, none, Counts("s", 4, 40, 0, 0, 0, 0)])
    assert census.total("positives") == 43
    assert (census.having("positives"), census.having("negatives"), census.having("positives", "negatives")) == (
        2,
        2,
        1,
    )
    assert census.histogram("positives", (0, 1, 2, 8)) == [("0", 1), ("1", 0), ("2–7", 1), ("8+", 1)]
