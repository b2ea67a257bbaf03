"""The figures of a run against slow counts, and the estimators against enumeration."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from rftfast.errors import UserError
from rftfast.select import equation_key
from rftfast.select.statistics import KS, majority_is_right, pass_at_k, statistics
from rftfast.select.union import Candidate, Pool
from rftfast.verify import find_equations, verify
from tests.made_runs import QUESTIONS, make_run, random_paths, random_run, write_jsonl


def test_pass_at_k_is_the_mean_over_all_draws():
    for n, c in ((6, 0), (6, 1), (6, 3), (6, 6), (1, 1)):
        right = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            draws = [any(d) for d in itertools.combinations(right, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(draws) / len(draws))
    assert pass_at_k(1000, 1, 100) == pytest.approx(0.1)


def candidate(text: str, gold: str = "#### 18") -> Candidate:
    v = verify(text, gold)
    return Candidate(text, text, "m", 0, v.verdict, v.answer, v.equations)


@pytest.mark.parametrize(
    ("answers", "by_value", "by_paper"),
    [
        (["18", "18", "7"], True, True),
        (["7", "7", "18"], False, False),
        (["7", "18"], False, False),  # a tie goes to the answer seen first
        (["18", "7"], True, True),
        (["18", "18.0", "7", "7", "18"], True, True),
        (["7", "7", "18", "18.0", "$18"], True, False),  # one value, but for the paper's rule three votes or none
        (["1,018", "1018", "18"], False, False),
        ([], False, False),
    ],
)
def test_majority(answers, by_value, by_paper):
    candidates = [candidate(f"so\n#### {a}") for a in answers]
    assert majority_is_right(candidates, "value", "#### 18") is by_value
    assert majority_is_right(candidates, "paper", "#### 18") is by_paper


def test_the_papers_rule_takes_the_first_marker_and_needs_a_float():
    assert not majority_is_right([candidate("#### 7\n#### 18")], "paper", "18")
    assert majority_is_right([candidate("#### 7\n#### 18")], "value", "18")
    assert majority_is_right([candidate("#### 1.8.0"), candidate("#### 18")], "paper", "18")
    assert not majority_is_right([candidate("none at all")], "paper", "18")


def test_a_false_equation_does_not_make_an_answer_wrong():
    assert majority_is_right([candidate("<<1+1=3>>\n#### 18")])


def test_figures_are_those_of_a_slow_count(tmp_path: Path):
    k = 30
    run = random_run(tmp_path / "run", k=k)
    with Pool([str(run)]) as pool:
        report = statistics(pool, pool.models)
    figures = report["models"]["m"]
    assert (figures["questions"], figures["samples"]) == (len(QUESTIONS), k * len(QUESTIONS))
    assert [row["k"] for row in figures["by_k"]] == [x for x in KS if x <= k]
    verdicts = {q.id: [verify(t, q.answer) for t in random_paths(q, k, 0)] for q in QUESTIONS}
    for row in [*figures["by_k"], {**figures["all_samples"], "k": k}]:
        sampled = union = 0
        for q in QUESTIONS:
            keys = {equation_key(v.equations) for v in verdicts[q.id][: row["k"]] if v.correct}
            sampled += len(keys)
            union += len(keys | {equation_key(find_equations(q.answer))})
        assert row["distinct_sampled"] == pytest.approx(sampled / len(QUESTIONS))
        assert row["distinct_with_gold"] == pytest.approx(union / len(QUESTIONS))
    solved = Counter(sum(v.verdict in ("correct", "wrong_equation") for v in vs) for vs in verdicts.values())
    assert {int(n): c for n, c in figures["solved_histogram"].items() if c} == solved
    lists = Counter(len({equation_key(v.equations) for v in vs if v.correct}) for vs in verdicts.values())
    assert {int(n): c for n, c in figures["equation_lists_histogram"].items() if c} == lists
    assert sum(figures["verdicts"].values()) == k * len(QUESTIONS)
    assert figures["all_samples"]["pass"] == sum(c for n, c in solved.items() if n) / len(QUESTIONS)
    json.dumps(report)


def test_questions_with_fewer_samples_do_not_count_for_larger_k(tmp_path: Path):
    run = make_run(tmp_path / "run", {"q1": ["#### 3"] * 7, "q2": ["#### 0"] * 2})
    with Pool([str(run)]) as pool:
        figures = statistics(pool, pool.models)["models"]["m"]
    assert [(row["k"], row["questions"], row["pass"]) for row in figures["by_k"]] == [
        (1, 2, 0.5),
        (3, 1, 1.0),
        (6, 1, 1.0),
    ]
    assert figures["all_samples"]["samples_per_question"] == 4.5


def test_exclusive_shares(tmp_path: Path):
    a = make_run(tmp_path / "a", {"q1": ["<<1+2=3>>#### 3", "<<2+1=3>>#### 3"], "q2": ["#### 5"]}, model="a")
    b = make_run(tmp_path / "b", {"q1": ["<<2+1=3>>#### 3", "<<4-1=3>>#### 3", "<<3*1=3>>#### 3"]}, model="b")
    with Pool([str(a), str(b)]) as pool:
        pooled = statistics(pool, pool.models)["pooled"]
    assert pooled["models"] == {
        "a": {"lists": 3, "exclusive": 2, "share": 2 / 5},
        "b": {"lists": 3, "exclusive": 2, "share": 2 / 5},
    }
    assert (pooled["found_by_all"], pooled["distinct_sampled"], pooled["distinct_with_gold"]) == (1, 2.5, 3.5)


def test_two_runs_of_one_model_are_kept_apart(tmp_path: Path):
    runs = [str(random_run(tmp_path / name, k=3)) for name in "ab"]
    with Pool(runs) as pool:
        names = list(statistics(pool, pool.models)["models"])
    assert names == [f"m ({run})" for run in runs]


def test_arrival_order_changes_nothing(tmp_path: Path):
    reports = []
    for seed in range(3):
        with Pool([str(random_run(tmp_path / str(seed), k=13, arrival=seed))]) as pool:
            reports.append(statistics(pool, pool.models))
    assert reports[0] == reports[1] == reports[2]


def test_the_papers_rule_names_a_gold_answer_that_is_no_number(tmp_path: Path):
    rows = [{"question_id": "a", "completion": "#### 3", "answer": "x+1", "verdict": "wrong_answer"}]
    with Pool([str(write_jsonl(tmp_path / "in.jsonl", rows))]) as pool:
        assert statistics(pool, ())["models"][""]["questions"] == 1
        with pytest.raises(UserError, match=r"question 'a': the gold answer 'x\+1'.*--vote paper"):
            statistics(pool, (), vote="paper")


def test_bad_choices(tmp_path: Path):
    with pytest.raises(UserError, match="vote is 'x'"):
        statistics([], [], vote="x")
    with pytest.raises(UserError, match="key is 'x'"):
        statistics([], [], key="x")


def test_figures_are_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    from rftfast.pipeline.figures import draw

    runs = [str(random_run(tmp_path / name, k=12, seed=name, model=name)) for name in "ab"]
    sizes = []
    for sources in (runs[:1], runs):
        with Pool(sources) as pool:
            draw(statistics(pool, pool.models), tmp_path / "f.png")
        data = (tmp_path / "f.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(data[20:24], "big"))
    assert sizes[1] > sizes[0]  # the panel of exclusive shares is added


def test_the_papers_figures_6_and_7_are_among_them(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    from rftfast.pipeline.figures import figure_of

    # a: two right lists and a false one that reaches the answer; b: one right list of its own, one shared with a.
    a = {"q1": ["<<1+2=3>>#### 3", "<<2+1=3>>#### 3", "<<1+1=3>>#### 3", "#### 4"], "q2": ["#### 4"]}
    b = {"q1": ["<<2+1=3>>#### 3", "<<3*1=3>>#### 3"], "q2": ["#### 4"]}
    runs = [str(make_run(tmp_path / name, paths, model=name)) for name, paths in (("a", a), ("b", b))]
    with Pool(runs) as pool:
        figure = figure_of(statistics(pool, pool.models))
    panels = {axes.get_title(): axes for axes in figure.axes}
    lists = panels["Distinct correct equation lists"]
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in lists.containers}
    assert heights == {  # questions with none, one, two, three lists
        "a: right answer": [1, 0, 0, 1],
        "a: right equations, too": [1, 0, 1],
        "b: right answer": [1, 0, 1],
        "b: right equations, too": [1, 0, 1],
    }
    (shares,) = panels["Equation lists that one model alone found"].containers
    assert [bar.get_width() for bar in shares] == pytest.approx([100 / 3, 100 / 3])
