"""How questions are packed: nothing lost below the bound, counted above it."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from rftfast.data import RunDir
from rftfast.data.records import VERDICTS
from rftfast.errors import UserError
from rftfast.report.questions import QuestionPack, Samples
from rftfast.report.why import MAX_TEXT
from rftfast.verify import Policy
from tests.report.examples import HOSTILE, hostile_run, rich_run, with_steps


def _unpack(packed: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def _pack(run: Path, most: int = 0, also: dict[str, list[int]] | None = None) -> dict[str, Any]:
    pack = QuestionPack(key="reference", policy=Policy(), most=most)
    for stored in RunDir.read_questions(run):
        pack.add(Samples(stored.id, stored.prompt, stored.gold, stored.samples, also or {}))
    done = pack.finish()
    return {**done, "index": _unpack(done["index"]), "chunks": [_unpack(chunk) for chunk in done["chunks"]]}


def test_everything_is_there(tmp_path: Path) -> None:
    done = _pack(rich_run(tmp_path / "run"))
    solved = done["index"][0]
    assert solved[:1] + solved[2:5] == ["solved", 9, 6, 2]
    assert dict(zip(VERDICTS, solved[5], strict=True)) == {
        "correct": 5,
        "wrong_answer": 2,
        "wrong_equation": 1,
        "no_answer": 1,
        "truncated": 0,
        "timeout": 0,
    }
    record = done["chunks"][solved[6]][0]
    assert record["r"] == []
    assert [s["i"] for s in record["s"]] == list(range(9))
    assert [s["i"] for s in record["s"] if s.get("k")] == [1, 3]
    assert [record["l"][s["l"]] for s in record["s"]][:2] == [["2+3=5", "5+4=9"], ["2+4=6", "6+3=9"]]
    assert record["s"][0]["w"] == ["first", None, None, None, 3]
    assert record["s"][2]["w"][:2] == ["same_text", 0]
    assert record["s"][3]["w"][:2] == ["farther", 0]
    assert record["s"][4]["w"][:2] == ["nearer", 3]
    false = record["s"][6]
    assert [false["t"][a:b] for a, b in false["x"]] == ["<<5+4=10>>"]
    assert "x" not in record["s"][0]
    assert done["samples"] == done["packed"] == 33


def test_beyond_the_bound_samples_are_counted(tmp_path: Path) -> None:
    done = _pack(rich_run(tmp_path / "run"), most=4)
    for line, record in zip(done["index"], done["chunks"][0], strict=True):
        assert len(record["s"]) == 4
        counted = [0] * len(VERDICTS)
        for sample in record["s"]:
            counted[sample["v"]] += 1
        for _, verdict, count in record["r"]:
            counted[verdict] += count
        assert counted == line[5]
        assert all(-1 <= place < len(record["l"]) for place, _, _ in record["r"])
    assert [s["i"] for s in done["chunks"][0][0]["s"] if s.get("k")] == [1, 3]  # the kept are always there
    assert done["packed"] == 8
    assert _pack(tmp_path / "run", most=1)["packed"] == 3  # two kept of the first question, one of the other


def test_long_texts_are_cut_and_say_so(tmp_path: Path) -> None:
    record = _pack(hostile_run(tmp_path / "run", megabytes=1.0))["chunks"][0][0]
    (long,) = [s for s in record["s"] if "c" in s]
    assert len(long["t"]) == MAX_TEXT
    assert long["c"] > 10**6


def test_hostile_texts_come_through_unchanged(tmp_path: Path) -> None:
    done = _pack(hostile_run(tmp_path / "run", megabytes=0.01))
    texts = {s["t"] for s in done["chunks"][0][0]["s"]}
    for text in HOSTILE.values():
        assert f"<<2+2=4>>{text}\n#### 4" in texts


def test_other_runs_that_found_a_list(tmp_path: Path) -> None:
    done = _pack(rich_run(tmp_path / "run"), also={"2+4=6|6+3=9": [1, 2], "2*3=6": []})
    record = done["chunks"][0][0]
    (place,) = record["o"]
    assert record["l"][int(place)] == ["2+4=6", "6+3=9"]
    assert record["o"][place] == [1, 2]


def test_steps_are_taken_along_or_refused(tmp_path: Path) -> None:
    run = with_steps(rich_run(tmp_path / "run"))
    record = _pack(run)["chunks"][0][0]
    assert record["s"][0]["e"][0] == {"text": "First <<2+3=5>>5", "q": 0.62, "advantage": 0.12}
    (part,) = (run / "samples").glob("part-*.jsonl")
    part.write_text(part.read_text().replace('"q": 0.62', '"q": "high"'))
    with pytest.raises(UserError, match="question 'solved', sample 0: 'steps' is no list"):
        _pack(run)


def test_an_unknown_verdict_is_refused(tmp_path: Path) -> None:
    run = rich_run(tmp_path / "run")
    (part,) = (run / "samples").glob("part-*.jsonl")
    part.write_text(part.read_text().replace('"no_answer"', '"perhaps"'))
    with pytest.raises(UserError, match="sample 7: verdict 'perhaps' is unknown"):
        _pack(run)


def test_chunks_close_when_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rftfast.report.questions._CHUNK", 1)
    done = _pack(rich_run(tmp_path / "run"))
    assert [line[6] for line in done["index"]] == [0, 1]
    assert [len(chunk) for chunk in done["chunks"]] == [1, 1]
