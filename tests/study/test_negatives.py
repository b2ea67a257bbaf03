"""The study of negatives, from random weights to its page, with a handful of problems."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rftfast.report.data import read_study
from rftfast.report.page import write_report
from rftfast.study.graph import Step, build_graph
from rftfast.study.results import collect
from rftfast.study.run import statuses
from rftfast.study.study_file import StudySpec
from rftfast.study.study_file import read_study as read_file
from rftfast.study.tables import write_tables
from rftfast.study.world import model
from rftfast.study.world.problems import make_problems
from rftfast.study.world.tokenizer import build_tokenizer
from tests.study.run_here import run_here

# A model that has learned six problems nearly by heart is now right and now wrong on them, which is all that is needed.
TINY = {
    "sizes": "[6]",
    "more_sizes": "[3]",
    "seeds": "[0]",
    "pool": "6",
    "test": "4",
    "text_tokens": "1000",
    "epochs": "80",
    "batch_size": "3",
    "lr": "3.0e-3",
    "max_tokens": "64",
    "k": "40",
    "rft": "[4]",
    "negatives": "2",
    "rollouts": "2",
    "pairs": "2",
    "many": "[1]",
    "many_sizes": "[6]",
    "by_answer": "[{method: outcome, definition: outcome, series: outcome DPO}]",
    "by_step": "[{method: step, definition: paper, series: per-step DPO}]",
    "dpo_epochs": "1",
    "dpo_lr": "1.0e-4",
    "step_sizes": "[6]",
    "step_source": "$problems-6-0",
    "step_questions": "6",
    "step_samples": "2",
    "step_rollouts": "2",
}


def small_tokenizer() -> Any:
    """Other words than those of a few problems are spelled in bytes."""
    return build_tokenizer(f"{problem.question}\n{problem.answer}" for problem in make_problems(10, seed=0))


def study_of(out: Path, **changes: str) -> tuple[StudySpec, dict[str, Step]]:
    study = read_file("negatives", TINY | changes)
    return study, build_graph(study, out)


@pytest.mark.slow
def test_the_whole_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 64, "LAYERS": 2, "HEADS": 2, "WIDE": 128, "world_tokenizer": small_tokenizer}.items():
        monkeypatch.setattr(model, name, value)
    study, graph = study_of(tmp_path / "out")
    run_here(graph, monkeypatch)
    states = statuses(graph)
    rows = collect(graph, states, study.baseline)
    assert [(row.group, row.name) for row in rows] == [
        ("3 problems", "SFT"),  # for the curve alone
        ("6 problems", "SFT"),
        ("6 problems", "RFT, k = 4"),
        ("6 problems", "RFT, all right of 1"),
        ("6 problems", "outcome DPO"),
        ("6 problems", "per-step DPO"),
    ]
    assert all(row.gain is not None for row in rows[2:])
    assert rows[4].data_mean("rows") and rows[5].data_mean("rows")  # pairs
    pair = json.loads((graph["pairs-by-step-6-0"].folder / "pairs.jsonl").read_text().splitlines()[0])
    assert pair["definition"] == "paper"
    assert (graph["dpo-by-step-6-0"].folder / "reference").is_dir()
    write_tables(study, graph, states, rows, tmp_path / "out")
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| 6 problems: per-step DPO |" in table
    assert "| SFT | per-step DPO | " in table  # who is better
    assert "| 6 problems: outcome DPO | " in table[table.index("Steps of right answers") :]
    found = read_study(tmp_path / "out")
    assert [series.name for series in found.curves["problems"]] == ["SFT", "RFT, k = 4", "outcome DPO", "per-step DPO"]
    assert [(run.name, run.role) for run in found.runs] == [
        ("samples-6-0", "train"),
        *(
            (f"answers-{name}-6-0{k}", "test")
            for name, k in (("sft", ""), ("rft", "-k4"), ("outcome", ""), ("by-step", ""))
        ),
    ]
    page = write_report([tmp_path / "out"]).path.read_text()
    assert 'id="figure-problems"' in page and '<section id="steps">' in page


def test_what_it_takes(tmp_path: Path) -> None:
    """As it ships: three sizes and three more of SFT alone, five seeds, six methods."""
    graph = build_graph(read_file("negatives"), tmp_path / "out")
    kinds = Counter(step.kind.name for step in graph.values())
    assert kinds["sft"] == 15 + 15 and kinds["rft"] == 15 + 15 and kinds["dpo"] == 60 and kinds["pairs"] == 60
    assert kinds["eval"] == 30 + 30 + 60
    assert kinds["rollout"] == 15 + 30  # of the negatives; of right answers
    given = build_graph(read_file("negatives", {"base": str(tmp_path), "bases": "[]"}), tmp_path / "out")
    assert not any(step.kind.name in ("blank", "pretrain") for step in given.values())
    assert given["sft-100-1"].command()[given["sft-100-1"].command().index("--model") + 1] == str(tmp_path)
