"""report.json: read back as it was written, refused with a line that names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rftfast.errors import UserError
from rftfast.report.data import REPORT_FILE, RunRef, StudyData, read_study
from tests.report.examples import paper_study


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    study = paper_study([RunRef("SFT", "runs/sft"), RunRef("SFT", "runs/sft-test", "test")])
    study.write(tmp_path)
    assert read_study(tmp_path) == study


def test_a_study_may_say_little(tmp_path: Path) -> None:
    (tmp_path / REPORT_FILE).write_text('{"format": 1, "title": "only this"}')
    assert read_study(tmp_path) == StudyData("only this")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"titel": "x"}, "titel is unknown; fields are title, summary"),
        ({"title": 3}, "title is 3; text is wanted"),
        ({"table": {}}, "table is {}; a list is wanted"),
        ({"table": [{"name": "a", "maj1": {"low": 0.1}}]}, "table[0].maj1.value is missing"),
        ({"table": [{"name": "a", "maj1": {"value": "0.4"}}]}, 'table[0].maj1.value is "0.4"; a number is wanted'),
        ({"table": [{"name": "a", "k": 1.5}]}, "table[0].k is 1.5; a whole number is wanted"),
        ({"table": [{"name": "a", "k": True}]}, "table[0].k is true; a whole number is wanted"),
        ({"curves": {"losses": []}}, "curves: 'losses' is unknown; choose among loss, fraction, problems, k, gain"),
        (
            {"curves": {"loss": [{"name": "a", "points": [{"x": float("nan"), "y": 0}]}]}},
            "curves.loss[0].points[0].x is NaN",
        ),
        (
            {"curves": {"loss": [{"name": "a", "points": [{"x": 10**400, "y": 0}]}]}},
            "curves.loss[0].points[0].x is 1000",
        ),
        ({"curves": {"k": [{"name": "a", "points": [{"x": 0, "y": 0}]}]}}, "'a' has x = 0; its axis is logarithmic"),
        ({"runs": [{"name": "a", "path": "a", "role": "dev"}]}, "'a' has role 'dev'; choose one of train, test"),
        ({"runs": [{"name": "a", "path": "a"}, {"name": "a", "path": "b"}]}, "two of one role and name"),
        ({"provenance": {"seed": 3}}, "provenance.seed is 3; text is wanted"),
        ({"format": 2}, "not a report of format 1"),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    file = tmp_path / REPORT_FILE
    file.write_text(json.dumps({"format": 1, "title": "t", **change}))
    with pytest.raises(UserError) as told:
        read_study(tmp_path)
    assert words in str(told.value)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path)
    (tmp_path / REPORT_FILE).write_text("{")
    with pytest.raises(UserError, match="invalid JSON"):
        read_study(tmp_path)
    (tmp_path / REPORT_FILE).write_text("[" * 100_000)
    with pytest.raises(UserError, match="invalid JSON"):
        read_study(tmp_path)
