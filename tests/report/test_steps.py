"""Values of steps on the page: those that rollouts gave, beside the samples they were drawn from."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from rftfast.errors import UserError
from rftfast.negatives.step_rows import write_steps
from rftfast.report.data import RunRef, StudyData
from rftfast.report.page import write_report
from rftfast.report.steps import StepValues
from tests.negatives.hand_made import SAMPLES, make_rollouts, make_run, response, rolled, state


def rolled_out(folder: Path, rollouts: Path | None = None) -> Path:
    """A run whose sample 1 goes wrong in its second step; of sample 0's three steps the first adds nothing."""
    run = make_run(folder / "run")
    states = [state("++++-"), state("-----"), state("-----"), state("+----"), state("+++++")]
    make_rollouts(rollouts or run / "rollouts", rolled(response(1), response(0, first=3), states=states))
    return run


def samples_of(page: Path) -> dict[int, dict[str, Any]]:
    """What the page has packed of the first question's samples, by index."""
    found = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    packed = json.loads(found[1])["sets"][0]["chunks"][0]
    return {s["i"]: s for s in json.loads(zlib.decompress(base64.b64decode(packed)))[0]["s"]}


@pytest.mark.parametrize("source", ["run", "run/rollouts"])
def test_rollouts_in_the_run_are_taken_along(tmp_path: Path, source: str) -> None:
    run = rolled_out(tmp_path)
    page = write_report([tmp_path / source]).path
    assert page == run / "report.html"
    samples = samples_of(page)
    assert samples[1]["e"] == [
        {"text": "Sum <<2+3=5>>5\n", "q": 0.8, "advantage": 0.3},
        {"text": "Half <<5/2=2.5>>2.5\n", "q": 0.0, "advantage": -0.8, "mark": "pit"},
        {"text": "so\n", "q": 0.0, "advantage": 0.0},
        {"text": "#### 2.5", "q": 0.0, "advantage": 0.0},
    ]
    assert [(s["q"], s["advantage"], s.get("mark")) for s in samples[0]["e"]] == [
        (0.2, -0.3, "spurious"),
        (1.0, 0.8, None),
        (1.0, 0.0, None),  # nothing was left to gain
    ]
    assert [i for i, sample in samples.items() if "e" in sample] == [0, 1]


def test_the_table_counts_them(tmp_path: Path) -> None:
    text = write_report([rolled_out(tmp_path)]).path.read_text()
    section = re.search(r'<section id="steps">.*?</section>', text, re.DOTALL)
    assert section is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", section[0])
    assert cells[:2] == ["25", "40.0"]  # rollouts, right
    assert cells[2:7] == ["1", "0", "1", "0", "0"]  # wrong responses, pits by step
    assert cells[7:9] == ["1", "3"]
    assert cells[9].startswith("33.3<small")  # one of three steps made no progress
    assert '<section id="steps">' not in write_report([make_run(tmp_path / "plain")]).path.read_text()


def test_the_totals_are_on_the_disk_too(tmp_path: Path) -> None:
    rollouts = rolled_out(tmp_path) / "rollouts"
    write_steps(rollouts, ["q"], best_of=5)
    found = json.loads((rollouts / "totals.json").read_text())
    share = found.pop("spurious_share")
    assert share["value"] == pytest.approx(1 / 3)
    assert 0 < share["low"] < 1 / 3 < share["high"] < 1
    assert found == {
        "questions": 1,
        "wrong": 1,
        "right": 1,
        "steps": 7,
        "retokenised": 0,
        "rollouts": 25,
        "right_rollouts": 10,
        "hopeless": 0,
        "right_steps": 3,
        "spurious": 1,
        "harmful": 0,
        "pits": {"2": 1},
    }


def test_rollouts_elsewhere_are_named(tmp_path: Path) -> None:
    run = rolled_out(tmp_path, tmp_path / "elsewhere")
    assert "e" not in samples_of(write_report([run]).path)[1]
    page = write_report([run], rollouts=tmp_path / "elsewhere").path
    assert samples_of(page)[1]["e"][1]["mark"] == "pit"
    StudyData("A study", runs=(RunRef("SFT", "run", rollouts="elsewhere"),)).write(tmp_path)
    assert samples_of(write_report([tmp_path]).path)[1]["e"][1]["mark"] == "pit"
    with pytest.raises(UserError, match="is a study, which names its rollouts itself"):
        write_report([tmp_path], rollouts=tmp_path / "elsewhere")
    with pytest.raises(UserError, match="elsewhere holds rollouts and lies in no run"):
        write_report([tmp_path / "elsewhere"])
    with pytest.raises(UserError, match="--rollouts belongs to one run"):
        write_report([run, run], rollouts=tmp_path / "elsewhere")


def test_rollouts_of_other_texts_are_refused(tmp_path: Path) -> None:
    rolled_out(tmp_path, tmp_path / "elsewhere")
    other = make_run(tmp_path / "other", [("Another text\n#### 10", "stop"), *SAMPLES[1:]])
    with pytest.raises(UserError, match="question 'q', sample 0: the rollouts are of another text than the run's"):
        write_report([other], rollouts=tmp_path / "elsewhere")


def test_samples_with_values_are_packed_first(tmp_path: Path) -> None:
    run = rolled_out(tmp_path)
    assert sorted(samples_of(write_report([run], most=3).path)) == [0, 1, 4]  # two kept paths, and the one with values


def test_questions_without_rollouts_stay_as_they_are(tmp_path: Path) -> None:
    rolled_out(tmp_path)
    rows = [{"sample_index": 0, "completion": "text"}]
    assert StepValues(tmp_path / "run" / "rollouts").beside("unknown", rows) == rows
