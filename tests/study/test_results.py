"""Tables from made-up evaluations whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rftfast.data.records import Question
from rftfast.errors import UserError
from rftfast.evaluate.fits import doublings, fit_outcomes
from rftfast.evaluate.intervals import wilson
from rftfast.report.data import Point, read_study
from rftfast.study.curves import _series, curves
from rftfast.study.graph import Step, build_graph
from rftfast.study.results import Row, collect
from rftfast.study.run import statuses
from rftfast.study.state import DONE, FAILED, State, read_state
from rftfast.study.study_file import StudySpec
from rftfast.study.tables import markdown, write_tables
from tests.made_runs import CONFIG, make_run
from tests.study.made_studies import read

QUESTIONS = [Question(f"q{i}", f"What is {i}+0?", f"<<{i}+0={i}>>{i}\n#### {i}") for i in range(20)]
STUDY = """
    title: Made up
    baseline: SFT
    steps:
      world-<seed>: {for: {seed: [0, 1, 2]}, kind: world}
      sft-<seed>: {for: {seed: [0, 1, 2]}, kind: sft, model: base, data: $world-<seed>/train.jsonl, prompt: plain}
      runs-<seed>: {for: {seed: [0, 1, 2]}, kind: sample, model: $sft-<seed>, questions: $world-<seed>/train.jsonl}
      paths-<seed>-<k>: {for: {seed: [0, 1, 2], k: [1, 3, 9]}, kind: select, runs: $runs-<seed>, first: <k>}
      rft-<seed>-<k>: {for: {seed: [0, 1, 2], k: [1, 3, 9]}, kind: rft, model: base, data: $paths-<seed>-<k>}
      eval-sft-<seed>: {for: {seed: [0, 1, 2]}, kind: eval, model: $sft-<seed>, questions: $world-<seed>/test.jsonl, row: SFT}
      eval-<seed>-<k>:
        for: {seed: [0, 1, 2], k: [1, 3, 9]}
        kind: eval
        model: $rft-<seed>-<k>
        questions: $world-<seed>/test.jsonl
        row: RFT, k = <k>
        series: RFT
        at: {k: <k>}
"""
# Right answers of 20, by seed.
RIGHT = {"SFT": (8, 9, 10), 1: (9, 10, 11), 3: (10, 11, 13), 9: (11, 13, 14)}


def finish(graph: dict[str, Step], name: str) -> None:
    State(name, graph[name].kind.name, graph[name].key, DONE, ["x"], 2.0).write(graph[name].folder)


def made_evaluation(graph: dict[str, Step], name: str, right: int, model: str) -> None:
    finish(graph, name)
    paths = {q.id: [q.answer if i < right else "#### 999"] for i, q in enumerate(QUESTIONS)}
    config = CONFIG | {"temperature": 0.0, "seed": 0, "k": 1}
    make_run(
        graph[name].folder / "samples" / "model" / "greedy", paths, model=model, questions=QUESTIONS, config=config
    )


@pytest.fixture
def made(tmp_path: Path) -> tuple[StudySpec, dict[str, Step], Path]:
    study = read(tmp_path, STUDY)
    out = tmp_path / "out"
    graph = build_graph(study, out)
    for seed in range(3):
        train = graph[f"world-{seed}"].folder / "train.jsonl"
        finish(graph, f"world-{seed}")
        train.write_text('{"question": "q", "answer": "1"}\n' * 20)
        made_evaluation(graph, f"eval-sft-{seed}", RIGHT["SFT"][seed], "sft")
        for k in (1, 3, 9):
            finish(graph, f"paths-{seed}-{k}")
            counts = {"questions": 20, "rows": 20 + 10 * k, "distinct_sampled": k / 2, "distinct_with_gold": 1 + k / 2}
            (graph[f"paths-{seed}-{k}"].folder / "counts.json").write_text(json.dumps(counts))
            made_evaluation(graph, f"eval-{seed}-{k}", RIGHT[k][seed], "rft")
    return study, graph, out


def rows_of(made: tuple[StudySpec, dict[str, Step], Path]) -> dict[str, Row]:
    study, graph, _ = made
    return {row.name: row for row in collect(graph, statuses(graph), study.baseline)}


def test_means_and_gains_over_seeds(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    rows = rows_of(made)
    assert list(rows) == ["SFT", "RFT, k = 1", "RFT, k = 3", "RFT, k = 9"]
    assert rows["SFT"].greedy.value == pytest.approx(0.45)
    assert rows["SFT"].greedy.high == pytest.approx(0.45 + 4.3027 * 0.05 / 3**0.5, abs=1e-4)
    assert rows["SFT"].gain is None
    gain = rows["RFT, k = 9"].gain
    assert gain is not None
    assert gain.runs == pytest.approx((0.15, 0.2, 0.2))
    assert gain.interval.value == pytest.approx(0.55 / 3)
    # The seeds have one test set, so 11 answers of 60 are the gains of 6 questions of 20.
    assert gain.by_question.questions == 20
    assert (gain.by_question.better, gain.by_question.worse) == (6, 0)
    assert gain.by_question.p == pytest.approx(2 / 2**6)
    assert rows["RFT, k = 3"].data_mean("rows") == 50
    assert rows["RFT, k = 3"].data_mean("sampled") == 1.5
    assert rows["SFT"].data_mean("rows") == 20
    assert rows["SFT"].data_mean("sampled") is None


def test_one_seed_has_intervals_over_questions(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, _ = made
    states = statuses(graph)
    one = {name: step for name, step in graph.items() if step.values.get("seed") == 0 or not step.values}
    rows = {row.name: row for row in collect(one, states, study.baseline)}
    assert rows["SFT"].greedy.report() == pytest.approx({"value": 0.4, "low": 0.2188, "high": 0.6134}, abs=1e-4)
    gain = rows["RFT, k = 9"].gain
    assert gain is not None
    assert gain.interval == gain.by_question.difference


def test_runs_that_come_to_the_same_are_not_exact(tmp_path: Path) -> None:
    """Three runs with 9 of 20 right have no spread; the questions still leave open how good they are."""
    study = read(tmp_path, STUDY)
    graph = build_graph(study, tmp_path / "out")
    for seed in range(3):
        finish(graph, f"world-{seed}")
        made_evaluation(graph, f"eval-sft-{seed}", 9, "sft")
        finish(graph, f"paths-{seed}-1")
        made_evaluation(graph, f"eval-{seed}-1", 12, "rft")
    rows = {row.name: row for row in collect(graph, statuses(graph), study.baseline)}
    assert rows["SFT"].greedy == wilson(0.45, 20)
    gain = rows["RFT, k = 1"].gain
    assert gain is not None and gain.runs == pytest.approx((0.15, 0.15, 0.15))
    assert gain.interval == gain.by_question.difference and gain.interval.low < gain.interval.high


def test_a_line_s_interval_is_over_the_questions_once(
    made: tuple[StudySpec, dict[str, Step], Path], tmp_path: Path
) -> None:
    """Ten seeds on one test set leave its questions what they are: the interval does not shrink with them."""
    rows = rows_of(made)
    (series,) = curves(made[0], list(rows.values()))["k"]
    right = [[sum(i < r for r in RIGHT[k]) / 3 for i in range(20)] for k in (1, 3, 9)]
    expected = fit_outcomes(doublings([1, 3, 9]), right).slope
    assert series.fit is not None
    assert f"({100 * expected.low:+.2f} to {100 * expected.high:+.2f}) points a doubling" in series.fit.text


def test_columns_of_evaluations_with_different_k_say_so(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, _ = made
    for k, seed in [(3, 1), (2, 9)]:
        name = "eval-sft-0" if seed == 1 else "eval-0-9"
        config = CONFIG | {"temperature": 0.7, "seed": 0, "k": k}
        paths = {q.id: [q.answer] * k for q in QUESTIONS}
        model = "sft" if seed == 1 else "rft"
        make_run(
            graph[name].folder / "samples" / "model" / "seed-0", paths, model=model, questions=QUESTIONS, config=config
        )
    one = {name: step for name, step in graph.items() if step.values.get("seed") == 0}
    text = markdown(study, collect(one, statuses(graph), study.baseline))
    assert "| maj1@k | pass@k |" in text
    assert text.count("(k = 3)") == 2 and text.count("(k = 2)") == 2


def test_what_is_written(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, out = made
    states = statuses(graph)
    rows = collect(graph, states, study.baseline)
    text = markdown(study, rows)
    assert "| RFT, k = 9 | 63.3 (" in text
    assert "| +18.3 (" in text
    assert "| 110 | 4.50 | 55.0, 65.0, 70.0 |" in text
    assert "gain against distinct paths a question, RFT: +" in text
    write_tables(study, graph, states, rows, out)
    plain = json.loads((out / "table.json").read_text())
    assert [row["training_rows"] for row in plain["rows"]] == [20, 30, 50, 110]
    assert plain["rows"][3]["gain"]["runs"] == pytest.approx([0.15, 0.2, 0.2])
    report = read_study(out)  # the report's own reader takes it
    assert [p.x for p in report.curves["k"][0].points] == [1, 3, 9]
    assert [p.x for p in report.curves["gain"][0].points] == [0.5, 1.5, 4.5]
    assert report.curves["gain"][0].fit is not None
    assert report.table[3].distinct_paths == 4.5
    assert any("steps have not run" in notice for notice in report.notices)
    assert (out / "table.md").read_text() == text


def test_what_failed_is_a_notice(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, out = made
    step = graph["runs-1"]
    State(step.name, "sample", step.key, FAILED, ["do", "it"], 2.0, exit_status=3).write(step.folder)
    states = {name: read_state(each) for name, each in graph.items()}
    write_tables(study, graph, states, collect(graph, states, study.baseline), out)
    assert "runs-1 failed (exit status 3); to run it alone: do it" in read_study(out).notices


def test_two_of_one_row_and_seed(made: tuple[StudySpec, dict[str, Step], Path], tmp_path: Path) -> None:
    study = read(tmp_path, STUDY.replace("row: RFT, k = <k>", "row: RFT"))
    graph = build_graph(study, made[2])
    with pytest.raises(UserError, match="eval-0-1 and eval-0-3: both are row 'RFT' with pair 0"):
        collect(graph, statuses(graph), study.baseline)


def test_a_figure_that_is_none(made: tuple[StudySpec, dict[str, Step], Path], tmp_path: Path) -> None:
    study = read(tmp_path, STUDY.replace("at: {k: <k>}", "at: {kk: <k>}"))
    graph = build_graph(study, made[2])
    with pytest.raises(UserError, match="at kk: 1; choose loss, fraction, problems, k, gain"):
        markdown(study, collect(graph, statuses(graph), study.baseline))


def test_points_of_one_row_are_told_apart_by_group() -> None:
    placed = [(Point(x, x / 10, None, None, "RFT"), Row(f"{x} problems", "RFT", (), None)) for x in (4, 1, 2)]
    series = _series("gain", "RFT", placed, "")
    assert [point.label for point in series.points] == ["1 problems", "2 problems", "4 problems"]
    alone = _series("gain", "RFT", placed[:1], "")
    assert [point.label for point in alone.points] == ["RFT"]
