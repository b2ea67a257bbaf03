"""What methods are worth over growing data, from made-up evaluations whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rftfast.data.records import Question
from rftfast.errors import UserError
from rftfast.report.data import read_study
from rftfast.study.efficiency import efficiencies, orderings
from rftfast.study.graph import Step, build_graph
from rftfast.study.results import collect, step_rows
from rftfast.study.run import statuses
from rftfast.study.state import DONE, State
from rftfast.study.study_file import StudySpec
from rftfast.study.tables import spurious, write_tables
from tests.made_runs import CONFIG, make_run
from tests.study.made_studies import read

QUESTIONS = [Question(f"q{i}", f"What is {i}+0?", f"<<{i}+0={i}>>{i}\n#### {i}") for i in range(20)]
STUDY = """
    title: Made up
    baseline: SFT
    parameters: {seeds: [0, 1]}
    steps:
      world: {kind: world}
      sft-<size>-<seed>:
        for: {size: [100, 200, 400], seed: <seeds>}
        kind: sft
        model: base
        data: $world/train.jsonl
        limit: <size>
        seed: <seed>
      eval-<size>-<seed>: &eval
        for: {size: [200, 100, 400], seed: <seeds>}
        kind: eval
        model: $sft-<size>-<seed>
        questions: $world/test.jsonl
        group: <size> problems
        row: SFT
        series: SFT
        at: {problems: <size>}
      pairs-<size>-<seed>:
        for: {size: [100, 200, 400], seed: <seeds>}
        kind: pairs
        run: $world
      dpo-<size>-<seed>:
        for: {size: [100, 200, 400], seed: <seeds>}
        kind: dpo
        model: $sft-<size>-<seed>
        data: $pairs-<size>-<seed>
      eval-dpo-<size>-<seed>:
        <<: *eval
        model: $dpo-<size>-<seed>
        row: DPO
        series: DPO
      values-<seed>:
        for: {seed: <seeds>}
        kind: rollout
        run: $world
        positives: 1
        row: SFT
"""
# Right answers of 20 by size, then by seed: 4 a doubling, of DPO 4 more with the first seed and 2 more with the second.
RIGHT = {
    "eval": {100: (4, 2), 200: (8, 6), 400: (12, 10)},
    "eval-dpo": {100: (8, 4), 200: (12, 8), 400: (16, 12)},
}


def evaluated(name: str, step: Step) -> None:
    kind, size, seed = name.rsplit("-", 2)
    right = RIGHT[kind][int(size)][int(seed)]
    paths = {q.id: [q.answer if i < right else "#### 999"] for i, q in enumerate(QUESTIONS)}
    config = CONFIG | {"temperature": 0.0, "seed": 0, "k": 1}
    make_run(step.folder / "samples" / "m" / "greedy", paths, model=name, questions=QUESTIONS, config=config)


@pytest.fixture(scope="module", params=["[0, 1]", "[0]"])
def made(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[StudySpec, dict[str, Step], Path]:
    folder = tmp_path_factory.mktemp("study")
    study = read(folder, STUDY, seeds=request.param)
    out = folder / "out"
    graph = build_graph(study, out)
    for name, step in graph.items():
        State(name, step.kind.name, step.key, DONE, ["x"], 2.0).write(step.folder)
        if step.kind.name == "eval":
            evaluated(name, step)
        elif step.kind.name == "rollout":
            totals = {"right": 10, "right_steps": 40, "spurious": 4 + 4 * int(name[-1]), "harmful": 1}
            (step.folder / "rollouts").mkdir()
            (step.folder / "rollouts" / "totals.json").write_text(json.dumps(totals))
    return study, graph, out


def test_how_many_times_the_problems(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, _ = made
    rows = collect(graph, statuses(graph), study.baseline)
    (dpo,) = efficiencies(rows, "SFT")
    assert dpo.name == "DPO" and dpo.factor is not None and dpo.doublings is not None
    assert dpo.runs == pytest.approx([1, 0.5][: dpo.pairs], abs=1e-6)
    assert dpo.factor.value == pytest.approx(2 if dpo.pairs == 1 else 2**0.75)
    if dpo.pairs == 1:
        assert 0.4 < dpo.doublings.low < 1 < dpo.doublings.high < 1.6  # over the questions
    else:
        assert dpo.doublings.high - 0.75 == pytest.approx(12.7062 * 0.25, rel=1e-4)  # over the seeds: Student's t
    assert efficiencies(rows, None) == [] and efficiencies(rows, "nobody") == []


def test_rows_of_as_many_problems_stand_together(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, _ = made
    rows = collect(graph, statuses(graph), study.baseline)
    assert [(row.group, row.name) for row in rows] == [
        (f"{size} problems", name) for size in (100, 200, 400) for name in ("SFT", "DPO")
    ]


def test_no_accuracy_in_common(tmp_path: Path) -> None:
    study = read(
        tmp_path, STUDY.replace("[100, 200, 400]", "[100]").replace("[200, 100, 400]", "[100]"), seeds="[0, 1]"
    )
    graph = build_graph(study, tmp_path / "out")
    for name, step in graph.items():
        State(name, step.kind.name, step.key, DONE, ["x"], 2.0).write(step.folder)
        if step.kind.name == "eval":
            evaluated(name, step)
    (dpo,) = efficiencies(collect(graph, statuses(graph), study.baseline), "SFT")
    assert (dpo.runs, dpo.pairs, dpo.factor) == ((), 2, None)
    assert dpo.text("SFT") == "no accuracy that SFT reaches, too"


def test_which_is_better(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, _ = made
    (found,) = orderings(collect(graph, statuses(graph), study.baseline))
    assert (found.first, found.second) == ("SFT", "DPO")
    assert found.runs == pytest.approx([-0.2, -0.1][: len(found.runs)])
    assert found.verdict == ("DPO is better" if len(found.runs) == 1 else "open")  # two seeds say little


def test_tables_and_figure(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    study, graph, out = made
    states = statuses(graph)
    rows = collect(graph, states, study.baseline)
    write_tables(study, graph, states, rows, out)
    report = read_study(out)
    sft, dpo = report.curves["problems"]
    assert [point.x for point in dpo.points] == [100, 200, 400]
    assert sft.note == "" and dpo.note.startswith("worth ") and dpo.note.endswith("times the problems of SFT")
    text = (out / "table.md").read_text()
    assert f"accuracy against training problems: DPO is {dpo.note}." in text
    assert "| SFT | DPO | -" in text
    plain = json.loads((out / "table.json").read_text())
    seeds = plain["efficiency"][0]["runs"]
    assert plain["efficiency"][0]["factor"]["value"] == pytest.approx({1: 2, 2: 2**0.75}[seeds])
    assert plain["orderings"][0]["value"] == pytest.approx({1: -0.2, 2: -0.15}[seeds])
    assert plain["steps_of_right_answers"][0]["right_steps"] == 40 * len(plain["steps_of_right_answers"][0]["runs"])


def test_steps_of_right_answers(made: tuple[StudySpec, dict[str, Step], Path]) -> None:
    _, graph, _ = made
    (row,) = step_rows(graph, statuses(graph))
    assert row.shares == [0.1, 0.2][: len(row.shares)]
    assert row.share is not None
    assert row.share.value == pytest.approx(sum(row.shares) / len(row.shares))
    assert "| SFT | " in spurious([row]) and f"| {10 * len(row.shares)} | {40 * len(row.shares)} |" in spurious([row])
    assert spurious([]) == ""
    file = graph["values-0"].folder / "rollouts" / "totals.json"
    whole = file.read_text()
    file.write_text("{")
    with pytest.raises(UserError, match=r"totals\.json: cannot be read"):
        step_rows(graph, statuses(graph))
    file.write_text(whole)
