from __future__ import annotations

from pathlib import Path

import pytest

from rftfast.data.records import Question
from rftfast.errors import UserError
from rftfast.study.subset import draw_part, select_first
from tests.cli.commands import rftfast
from tests.made_runs import QUESTIONS, make_run, random_paths, read_jsonl

MANY = [Question(f"q{i}", f"question {i}", f"#### {i}") for i in range(64)]


def test_parts_are_nested_and_in_order() -> None:
    parts = [{q.id for q in draw_part(MANY, f, None, 5)} for f in (1, 0.5, 0.25, 1 / 32)]
    assert [len(part) for part in parts] == [64, 32, 16, 2]
    assert parts[0] > parts[1] > parts[2] > parts[3]
    drawn = draw_part(MANY, 0.5, None, 5)
    assert drawn == sorted(drawn, key=MANY.index)
    assert {q.id for q in drawn} != {q.id for q in draw_part(MANY, 0.5, None, 6)}
    assert len(draw_part(MANY, 1, 3, 0)) == 3
    assert len(draw_part(MANY, 0.001, None, 0)) == 1


@pytest.mark.parametrize("fraction", [0, -1, 1.5, float("nan")])
def test_what_is_no_share(fraction: float) -> None:
    with pytest.raises(UserError, match="it is a share of the questions"):
        draw_part(MANY, fraction, None, 0)


@pytest.mark.parametrize("first", [1, 3, 6])
def test_the_first_k_are_those_of_a_shorter_run(tmp_path: Path, first: int) -> None:
    paths = {q.id: random_paths(q, 8, "x") for q in QUESTIONS}
    run = make_run(tmp_path / "run", paths)
    shorter = make_run(tmp_path / "shorter", {name: texts[:first] for name, texts in paths.items()})
    counts = select_first([str(run)], tmp_path / "rft.jsonl", first=first)
    assert (tmp_path / "rft.jsonl").read_bytes() == (shorter / "rft.jsonl").read_bytes()
    sampled = sum(row["source"] == "sample" for row in read_jsonl(tmp_path / "rft.jsonl"))
    assert counts["distinct_sampled"] == pytest.approx(sampled / len(QUESTIONS))
    assert counts["rows"] == sampled + len(QUESTIONS)
    assert counts["samples"] == first
    assert counts["distinct_sampled"] <= counts["distinct_with_gold"] <= counts["distinct_sampled"] + 1


def test_the_first_k_of_each_of_several_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / m, {q.id: random_paths(q, 6, m) for q in QUESTIONS}, model=m) for m in "ab"]
    counts = select_first([str(run) for run in runs], tmp_path / "rft.jsonl", first=3)
    assert counts["samples"] == 6
    done = rftfast("select", *runs, "--no-dedup")
    every = select_first([str(run) for run in runs], tmp_path / "all.jsonl", dedup=False)
    assert (tmp_path / "all.jsonl").read_text() == done.stdout
    assert every["rows"] == len(done.stdout.splitlines())


def test_too_few_samples(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {q.id: random_paths(q, 4, "x") for q in QUESTIONS})
    with pytest.raises(UserError, match="'q1' has fewer than 5 samples"):
        select_first([str(run)], tmp_path / "rft.jsonl", first=5)
    with pytest.raises(UserError, match="key is 'odd'"):
        select_first([str(run)], tmp_path / "rft.jsonl", key="odd")
    assert not (tmp_path / "rft.jsonl").exists()
