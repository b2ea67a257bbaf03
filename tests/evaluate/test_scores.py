"""maj1@1, maj1@k and pass@k from stored runs, and two models beside each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from rftfast.data.records import Question
from rftfast.errors import UserError
from rftfast.evaluate.outcomes import run_folders
from rftfast.evaluate.scores import compare_models, score_runs, short_names
from tests.made_runs import CONFIG, QUESTIONS, make_run

RIGHT = {q.id: q.answer.rsplit("#### ", 1)[1] for q in QUESTIONS}  # 3, 5, 7, …


def run(path: Path, pattern: dict[str, str], **config: object) -> Path:
    """Samples by question: r is right, f right with a false equation, w and v two wrong answers, - none at all."""
    texts = {"r": "#### {0}", "f": "<<1+1=3>>3\n#### {0}", "w": "#### 1000", "v": "#### 2000", "-": "no idea"}
    paths = {name: [texts[c].format(RIGHT[name]) for c in marks] for name, marks in pattern.items()}
    return make_run(path, paths, config={**CONFIG, "temperature": 0.7, "seed": 0, **config})


def test_each_figure(tmp_path: Path) -> None:
    greedy = run(tmp_path / "g", {"q1": "r", "q2": "w", "q3": "f", "q4": "-"}, temperature=0.0)
    sampled = run(tmp_path / "s", {"q1": "rrw", "q2": "wrw", "q3": "ffw", "q4": "---"})
    found = score_runs([sampled, greedy])
    value = {name: score.interval.value for name, score in found.scores.items()}
    assert value["maj1@1"] == 0.5  # a false equation does not make the answer wrong
    assert value["maj1@3"] == 0.5
    assert value["pass@1"] == pytest.approx((2 / 3 + 1 / 3 + 2 / 3 + 0) / 4)
    assert value["pass@3"] == 0.75
    assert [score.name for score in found.headline] == ["maj1@1", "maj1@3", "pass@1", "pass@3"]
    assert found.report()["scores"]["maj1@1"]["questions"] == 4
    assert found.report()["runs"][0]["verdicts"] == {
        "correct": 1,
        "no_answer": 1,
        "wrong_answer": 1,
        "wrong_equation": 1,
    }


def test_votes(tmp_path: Path) -> None:
    """18 and 18.0 are one vote by value, two by the paper's rule; of a tie the answer seen first wins."""
    paths = {
        "q1": ["#### 9", "#### 3", "#### 3.0"],  # by value 3 wins, by strings the 9, which is seen first
        "q2": ["#### 5", "#### 9", "#### 9"],
        "q3": ["#### 1,007", "#### 7", "#### 7"],
        "q4": ["#### 9.00001", "#### 8", "#### 7"],  # within 1e-4 of the gold 9
    }
    path = make_run(tmp_path / "s", paths, config={**CONFIG, "temperature": 0.7})
    by_value = score_runs([path]).scores["maj1@3"].values
    by_paper = score_runs([path], "paper").scores["maj1@3"].values
    assert by_value == {"q1": 1, "q2": 0, "q3": 1, "q4": 0}
    assert by_paper == {"q1": 0, "q2": 0, "q3": 1, "q4": 1}


def test_seeds_are_averaged(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "0", {"q1": "rr", "q2": "ww", "q3": "rw"}),
        run(tmp_path / "1", {"q1": "rr", "q2": "rr", "q3": "ww"}, seed=1),
    ]
    score = score_runs(runs).scores["maj1@2"]
    assert score.values == {"q1": 1.0, "q2": 0.5, "q3": 0.5}
    assert score.by_seed == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert score.interval.value == pytest.approx(2 / 3)


def test_comparison_pairs_questions(tmp_path: Path) -> None:
    a = score_runs([run(tmp_path / "a", {q.id: "r" for q in QUESTIONS}, temperature=0.0)])
    b = score_runs([run(tmp_path / "b", {q.id: m for q, m in zip(QUESTIONS, "wwwrwr", strict=True)}, temperature=0.0)])
    found = compare_models(a, b)["maj1@1"]
    assert (found.better, found.worse, found.questions) == (4, 0, 6)
    assert found.p == 2 / 16
    assert found.difference.value == pytest.approx(4 / 6)
    back = compare_models(b, a)["maj1@1"]
    assert back.difference.low == pytest.approx(-found.difference.high)


def test_comparison_on_the_questions_both_have(tmp_path: Path) -> None:
    a = score_runs([run(tmp_path / "a", {"q1": "r", "q2": "r", "q3": "r"}, temperature=0.0)])
    b = score_runs([run(tmp_path / "b", {"q3": "w", "q4": "w", "q2": "r"}, temperature=0.0)])
    found = compare_models(a, b)["maj1@1"]
    assert (found.questions, found.better) == (2, 1)


def test_comparison_refuses(tmp_path: Path) -> None:
    a = score_runs([run(tmp_path / "a", {"q1": "r"}, temperature=0.0)])
    apart = score_runs([run(tmp_path / "b", {"q2": "r"}, temperature=0.0)])
    with pytest.raises(UserError, match="no question in common"):
        compare_models(a, apart)
    sampled = score_runs([run(tmp_path / "c", {"q1": "rr"})])
    with pytest.raises(UserError, match="no figure in common"):
        compare_models(a, sampled)
    twice = score_runs([run(tmp_path / "d", {"q1": "rr"}), run(tmp_path / "e", {"q1": "rr"}, seed=1)])
    with pytest.raises(UserError, match="1 seeds of m and 2 of m"):
        compare_models(sampled, twice)
    other = make_run(
        tmp_path / "f",
        {"q1": ["#### 4"]},
        questions=[Question("q1", "What is 1+1+1?", "#### 4")],
        config={**CONFIG, "temperature": 0.0},
    )
    with pytest.raises(UserError, match="one gold answer"):
        compare_models(a, score_runs([other]))


def test_runs_that_do_not_go_together(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {"q1": "rr", "q2": "rr"})
    with pytest.raises(UserError, match="has seed 0, as has"):
        score_runs([first, run(tmp_path / "b", {"q1": "rw", "q2": "rr"})])
    with pytest.raises(UserError, match="temperature not as in"):
        score_runs([first, run(tmp_path / "c", {"q1": "rr", "q2": "rr"}, seed=1, temperature=1.0)])
    with pytest.raises(UserError, match="k not as in"):
        score_runs([first, run(tmp_path / "d", {"q1": "rrr", "q2": "rrr"}, seed=1)])
    with pytest.raises(UserError, match="has 1 questions that are not the 2"):
        score_runs([first, run(tmp_path / "e", {"q1": "rr"}, seed=1)])
    greedy = [run(tmp_path / name, {"q1": "r"}, temperature=0.0) for name in "fg"]
    with pytest.raises(UserError, match="second greedy run"):
        score_runs(greedy)
    with pytest.raises(UserError, match="no run"):
        score_runs([])
    with pytest.raises(UserError, match="shots not as in"):  # 8-shot answers and zero-shot votes are no one model's
        score_runs([first, run(tmp_path / "h", {"q1": "r", "q2": "r"}, temperature=0.0, shots=[{"question": "a"}])])


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["runs/rft/model", "runs/sft/model"], ["rft/model", "sft/model"]),
        (["runs/rft/model"], ["rft/model"]),
        (["a/m", "b/m"], ["a/m", "b/m"]),
        (["a/one", "b/two"], ["one", "two"]),
        (["/x/one", "/x/one"], ["one", "one"]),
        (["smollm2-135m-instruct"], ["smollm2-135m-instruct"]),
    ],
)
def test_models_are_told_apart_by_as_few_folders_as_it_takes(models: list[str], names: list[str]) -> None:
    assert short_names(models) == names


def test_runs_that_tell_no_accuracy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="early stop"):
        score_runs([run(tmp_path / "a", {"q1": "rr"}, early_stop=True)])
    with pytest.raises(UserError, match="as many for every question"):
        score_runs([run(tmp_path / "b", {"q1": "rr", "q2": "r"})])
    with pytest.raises(UserError, match="no temperature"):
        score_runs([make_run(tmp_path / "c", {"q1": ["#### 3"]})])
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "run.json").write_text('{"format": 1, "config": {"method": "rft"}, "fingerprints": {}}')
    with pytest.raises(UserError, match=r"training run; evaluate its model, .*trained/model"):
        score_runs([tmp_path / "trained"])
    with pytest.raises(UserError, match="vote is 'x'"):
        score_runs([run(tmp_path / "d", {"q1": "rr"})], "x")
    with pytest.raises(UserError, match=r"run\.json"):
        score_runs([tmp_path])


def test_run_folders(tmp_path: Path) -> None:
    a = run(tmp_path / "m" / "greedy", {"q1": "r"}, temperature=0.0)
    b = run(tmp_path / "m" / "seed-0", {"q1": "rr"})
    assert run_folders(a) == [a]
    assert run_folders(tmp_path / "m") == [a, b]
    with pytest.raises(UserError, match=r"holds evaluations; name that of one model, such as .*/m$"):
        run_folders(tmp_path)
    assert run_folders(tmp_path / "m" / "greedy" / "samples") == []
    assert run_folders("no/such/thing") == []
    (tmp_path / "m" / "config.json").write_text("{}")
    assert run_folders(tmp_path / "m") == []  # a model folder is a model, whatever lies in it
