"""Pools of runs and files: the fold over several models, both counts, the set without deduplication."""

import random

import pytest
from rapidfuzz.distance.Levenshtein import distance

from rftfast.data import RunDir
from rftfast.data.questions import question_hash
from rftfast.data.records import Completion, Question, Verdict
from rftfast.errors import UserError
from rftfast.pipeline.files import select_pool
from rftfast.select import equation_key
from rftfast.select.training_rows import select_question
from rftfast.select.union import Pool
from rftfast.verify import Policy, find_equations, verify
from tests.made_runs import CONFIG, QUESTIONS, make_run, random_paths, random_run, read_jsonl, write_jsonl


def slow_fold(texts):
    """The published pseudo-code, every sum formed anew."""
    kept = []
    for text in texts:
        key = equation_key(find_equations(text))
        place = next((i for i, t in enumerate(kept) if equation_key(find_equations(t)) == key), None)
        if place is None:
            kept.append(text)
            continue
        others = [t for t in kept if t != kept[place]]
        if sum(distance(text, t) for t in others) > sum(distance(kept[place], t) for t in others):
            kept[place] = text
    return kept


def file_rows(seeds=(0,), k=20, **more):
    return [
        {"question_id": q.id, "question": q.question, "completion": t, "sample_index": i, "model": f"m{s}", **more}
        | ({} if "verdict" in more else {"answer": q.answer})
        for q in QUESTIONS
        for s in seeds
        for i, t in enumerate(random_paths(q, k, s))
    ]


def test_a_single_run_gives_its_own_training_rows_byte_for_byte(tmp_path):
    run = random_run(tmp_path / "run", arrival=3)
    with Pool([str(run)]) as pool:
        totals = select_pool(pool, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (run / "rft.jsonl").read_bytes()
    assert totals.rows == len(QUESTIONS) + totals.sampled
    assert totals.sampled > len(QUESTIONS)


def test_runs_are_pooled_in_the_order_given_and_folded_anew(tmp_path):
    runs = [str(random_run(tmp_path / f"r{s}", seed=s, model=f"m{s}", arrival=s)) for s in range(3)]
    for order in (runs, runs[::-1]):
        seeds = [int(r[-1]) for r in order]
        with Pool(order) as pool:
            for question in pool:
                gold = next(q for q in QUESTIONS if q.id == question.id)
                texts = [t for s in seeds for t in random_paths(gold, 30, s) if verify(t, gold.answer).correct]
                assert [c.text for c in select_question(question).kept] == slow_fold(texts)
                assert [c.model for c in question.candidates] == [f"m{s}" for s in seeds for _ in range(30)]
    with Pool(runs) as pool:
        totals = select_pool(pool, tmp_path / "out.jsonl")
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert {row.get("model") for row in rows} == {None, "m0", "m1", "m2"}
    for q in QUESTIONS:
        mine = [row for row in rows if row["question_id"] == q.id]
        assert mine[0]["source"] == "gold" and mine[0]["completion"] == " " + q.answer
        assert {row["source"] for row in mine[1:]} == {"sample"}
    assert totals.paths == 3 * 30 * len(QUESTIONS)


def test_the_union_of_the_released_models_is_no_concatenation(tmp_path):
    """⊕ keeps one path for an equation list that both models found."""
    q = QUESTIONS[0]
    a = make_run(tmp_path / "a", {q.id: ["<<1+2=3>>\n#### 3"]}, model="a")
    b = make_run(tmp_path / "b", {q.id: ["so <<1+2=3>>\n#### 3", "<<2*1=2>>, one more\n#### 3"]}, model="b")
    with Pool([str(a), str(b)]) as pool:
        (question,) = pool
    assert [c.model for c in select_question(question).kept] == ["a", "b"]


def test_both_counts(tmp_path):
    q = QUESTIONS[0]  # gold: 1+1=2, 2+1=3
    texts = {
        "gold found": (["<<1+1=2>> <<2+1=3>>\n#### 3", "<<1+2=3>>\n#### 3", "<<1 + 2 = 3>>\n#### 3"], 2, 2),
        "gold not found": (["<<1+2=3>>\n#### 3", "none\n#### 3"], 2, 3),
        "nothing found": (["<<1+2=4>>\n#### 3", "#### 4", ""], 0, 1),
    }
    for name, (paths, sampled, union) in texts.items():
        run = make_run(tmp_path / name, {q.id: paths})
        with Pool([str(run)]) as pool:
            (question,) = pool
        selection = select_question(question)
        assert (selection.sampled, selection.union) == (sampled, union), name


def test_without_deduplication_every_right_answer_stays(tmp_path):
    q = QUESTIONS[0]
    texts = ["<<1+2=3>>\n#### 3", "<<1+2=3>>\n#### 3", "<<1+2=4>>\n#### 3", "#### 4", "nothing"]
    run = make_run(tmp_path / "run", {q.id: texts})
    with Pool([str(run)]) as pool:
        totals = select_pool(pool, tmp_path / "out.jsonl", dedup=False)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [row["completion"].lstrip() for row in rows] == [q.answer, *texts[:3]]  # a false equation does not matter
    assert (totals.right_answer, totals.accepted, totals.sampled, totals.rows) == (3, 2, 1, 4)


def test_the_order_of_rows_changes_nothing(tmp_path):
    rows = file_rows(seeds=(1, 0))
    written = set()
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        with Pool([str(write_jsonl(tmp_path / "in.jsonl", rows))]) as pool:
            select_pool(pool, tmp_path / "out.jsonl")
        written.add((tmp_path / "out.jsonl").read_bytes())
    assert len(written) == 1


def test_a_file_and_a_run_of_the_same_samples_agree(tmp_path):
    run = make_run(tmp_path / "run", {q.id: random_paths(q, 20, 0) for q in QUESTIONS})
    with Pool([str(write_jsonl(tmp_path / "in.jsonl", file_rows()))]) as pool:
        select_pool(pool, tmp_path / "out.jsonl")
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert [{k: v for k, v in row.items() if k != "model"} for row in rows] == read_jsonl(run / "rft.jsonl")


def test_runs_and_files_make_one_pool(tmp_path):
    """A file that has question texts alone meets a run whose ids are hashes of the same texts."""
    questions = [Question(question_hash(q.question), q.question, q.answer) for q in QUESTIONS[:2]]
    run = make_run(tmp_path / "run", {q.id: ["<<1+1=2>>\n#### 3"] for q in questions}, questions=questions)
    golds = [q.answer.split("#### ")[1] for q in questions]
    rows = [
        {"question": q.question, "response": "two\n#### 3", "answer": gold}
        for q, gold in zip(questions, golds, strict=True)
    ][::-1]
    with Pool([str(run), str(write_jsonl(tmp_path / "in.jsonl", rows))]) as pool:
        found = list(pool)
        assert pool.unnumbered == 2
    assert [q.id for q in found] == [q.id for q in questions]
    assert [c.model for c in found[0].candidates] == ["m", "in.jsonl"]
    assert [c.completion for c in found[0].candidates] == [" <<1+1=2>>\n#### 3", " two\n#### 3"]
    assert [c.verdict for c in found[0].candidates] == ["correct", "correct"]


def test_a_verdict_in_the_file_stands_and_lacking_ones_are_made(tmp_path):
    rows = [
        {"question_id": 7, "completion": "<<1+1=2>> #### 2", "verdict": "wrong_answer", "answer": "2"},
        {"question_id": 7, "completion": "<<1+1=2>> #### 2", "answer": "2"},
        {"question_id": 7, "completion": "<<1+1=3>> #### 2", "answer": "2"},
        {"question_id": 8, "completion": "<<1+1=3>> #### 2"},
    ]
    with Pool([str(write_jsonl(tmp_path / "in.jsonl", rows))]) as pool:
        seven, eight = pool
        assert pool.unjudged == 1
    assert [c.verdict for c in seven.candidates] == ["wrong_answer", "correct", "wrong_equation"]
    assert [c.verdict for c in eight.candidates] == ["correct"]
    assert seven.gold is None and seven.prompt is None  # a bare number is no solution to train on


def test_a_questions_file_gives_texts_and_solutions(tmp_path):
    rows = [{"question_id": "q1", "completion": "<<1+2=3>>\n#### 3"}, {"question_id": "q1", "completion": "#### 4"}]
    with Pool([str(write_jsonl(tmp_path / "in.jsonl", rows))], questions=QUESTIONS) as pool:
        (question,) = pool
        assert pool.unjudged == 0
    assert [c.verdict for c in question.candidates] == ["correct", "wrong_answer"]
    assert (question.prompt, question.user) == ("Question: What is 1+1+1?\nAnswer:", "What is 1+1+1?")
    assert question.gold == QUESTIONS[0].answer


def test_half_a_unicode_pair_is_a_character_like_any_other(tmp_path):
    rows = [
        {"question": f"what{mark}?", "completion": f"{mark} <<1+1=2>>\n#### 2", "answer": "2"}
        for mark in ("\ud83d", "\udc00", "\ud83d")
    ]
    with Pool([str(write_jsonl(tmp_path / "in.jsonl", rows))]) as pool:
        found = list(pool)
        select_pool(pool, tmp_path / "out.jsonl")
    assert sorted(len(q.candidates) for q in found) == [1, 2]
    assert [row["completion"] for row in read_jsonl(tmp_path / "out.jsonl")] == [
        f" {question.candidates[0].text}" for question in found
    ]


def test_a_gold_answer_of_the_questions_file_is_named_there(tmp_path):
    file = write_jsonl(tmp_path / "in.jsonl", [{"question_id": "a", "completion": "#### 5"}])
    words = "the questions file, question 'a': the gold answer 'none' holds no number"
    with pytest.raises(UserError, match=words), Pool([str(file)], questions=[Question("a", "?", "none")]) as pool:
        list(pool)


LATEX = "so \\boxed{\\frac{\\sqrt{3}}{2}}"


def test_latex_answers(tmp_path):
    """A gold solution whose answer is no number is a solution all the same, and is not asked of math-verify."""
    pytest.importorskip("math_verify", reason="math-verify is not installed (pip install 'rftfast[math]')")
    texts = [LATEX, "<<1+1=2>> \\boxed{\\sqrt{3}/2}", "<<1+1=3>> \\boxed{\\sqrt{3}/2}", "\\boxed{\\sqrt{3}}", "none"]
    rows = [{"question_id": "a", "question": "what?", "completion": t, "answer": LATEX} for t in texts]
    file = str(write_jsonl(tmp_path / "in.jsonl", rows))
    with Pool([file], policy=Policy(math=True)) as pool:
        (question,) = pool
    verdicts = ["correct", "correct", "wrong_equation", "wrong_answer", "no_answer"]
    assert [c.verdict for c in question.candidates] == verdicts
    assert question.gold == LATEX
    # Verdicts that stand in the file need no math-verify and no policy.
    judged = [{**row, "verdict": verdict} for row, verdict in zip(rows, verdicts, strict=True)]
    with Pool([str(write_jsonl(tmp_path / "judged.jsonl", judged))]) as pool:
        (again,) = pool
        totals = select_pool(pool, tmp_path / "out.jsonl")
    assert again.gold == LATEX
    assert (totals.right_answer, totals.sampled, totals.rows) == (2, 2, 3)
    # Without a gold answer all count as right; their answers are shown as they stand.
    for row in rows:
        del row["answer"]
    with Pool([str(write_jsonl(tmp_path / "open.jsonl", rows))], policy=Policy(math=True)) as pool:
        (bare,) = pool
    assert [c.answer for c in bare.candidates] == ["\\frac{\\sqrt{3}}{2}", *["\\sqrt{3}/2"] * 2, "\\sqrt{3}", None]


def test_a_run_of_latex_answers_asks_no_one(tmp_path, monkeypatch):
    """Reading a run starts no process for the equations of its gold solutions."""
    from rftfast.verify import math

    monkeypatch.setattr(math, "require_math_verify", lambda: pytest.fail("math-verify was asked"))
    question = Question("a", "what?", LATEX.replace("so", "<<1+1=2>>"))
    config = {**CONFIG, "verify": {"marker": "last", "equations": "strict", "bare": False, "math": True}}
    with RunDir.open(tmp_path / "run", config, {}, {}, notes={"model": "m"}) as run:
        path, verdict = Completion("a", 0, "<<1+1=2>> \\boxed{x}"), Verdict("correct", "x", ("1+1=2",))
        run.add(question, [path], [verdict], [0], prompt="what?", begin=" ")
        run.finish(["a"])
    with Pool([str(tmp_path / "run")]) as pool:
        (found,) = pool
    assert found.gold_equations == ("1+1=2",)
    assert select_question(found).union == 1


def test_training_files_can_be_pooled_too(tmp_path):
    """A run's rft.jsonl is a file of paths that are verified and of gold solutions."""
    run = random_run(tmp_path / "run")
    with Pool([str(run / "rft.jsonl")]) as pool:
        select_pool(pool, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (run / "rft.jsonl").read_bytes()


def test_keys(tmp_path):
    texts = ["<<1+2=3>>\n#### 3", "<<2+1=3>>\n#### 3", "<<1 + 2.0 = 3>>\n#### 3"]
    run = make_run(tmp_path / "run", {"q1": texts})
    with Pool([str(run)]) as pool:
        (question,) = pool
    counts = [select_question(question, key).sampled for key in ("reference", "canonical", "commutative")]
    assert counts == [3, 2, 1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([{"completion": "x"}], "line 1: no column 'question_id' or 'question'"),
        ([{"question_id": "1"}], "line 1: no column 'completion' or 'response'"),
        ([{"question_id": "1", "completion": None}], "line 1: 'completion' is null"),
        ([{"question_id": [1], "completion": ""}], "line 1: 'question_id' is"),
        ([{"question_id": "1", "completion": "", "sample_index": "a"}], "line 1: sample_index is 'a'"),
        ([{"question_id": "1", "completion": "", "verdict": "good"}], "line 1: verdict is 'good'"),
        ([{"question_id": "1", "completion": "", "verdict": "correct", "equations": "1"}], "line 1: equations"),
        ([{"question_id": "1", "completion": "", "answer": "plenty"}], "line 1: the gold answer 'plenty'"),
        ([{"question_id": "1", "completion": "", "sample_index": 3}] * 2, "line 2: sample_index 3 is also that of"),
        (
            [{"question_id": "1", "completion": "", "sample_index": 3}, {"question_id": "1", "completion": ""}],
            "line 2: no sample_index",
        ),
        (
            [{"question_id": "1", "completion": "", "answer": f"so\n#### {i}"} for i in range(2)],
            "line 2: question '1' has another gold solution",
        ),
        (
            [{"question_id": "1", "completion": f"#### {i}", "answer": str(i)} for i in range(2)],
            "line 2: question '1' has another gold answer in ",
        ),
        (
            [{"question_id": "1", "completion": "#### 1", "answer": answer} for answer in ("1.0", "so\n#### 1", "2")],
            "line 3: question '1' has another gold answer in ",
        ),
        ([{"kind": "sample", "question_id": "1", "completion": ""}], "line 1: a part of a run directory"),
        (
            [
                {"question_id": "1", "completion": "", "answer": "5"},
                {"question_id": "1", "completion": "", "answer": "?"},
            ],
            "line 2: the gold answer '?'",
        ),
        (
            [{"question_id": "1", "completion": "", "source": "gold"}, {"question_id": "1", "completion": ""}],
            "line 1, question '1': the gold answer ''",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path, rows, words):
    file = write_jsonl(tmp_path / "in.jsonl", rows)
    with pytest.raises(UserError) as error, Pool([str(file)]) as pool:
        list(pool)
    assert words in str(error.value)
    assert "in.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"[1]\n", "line 1: expected a JSON object"), (b"\n{\n", "line 2: invalid JSON"), (b'{"a": "\xff"}', "not UTF-8")],
)
def test_bad_lines_are_named(tmp_path, data, words):
    (tmp_path / "in.jsonl").write_bytes(data)
    with pytest.raises(UserError, match=words):
        Pool([str(tmp_path / "in.jsonl")])


def test_bad_sources(tmp_path):
    run = str(random_run(tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    for sources, words in (
        ([], "no source"),
        ([run, run + "/"], "named 2 times"),
        ([str(tmp_path / "nowhere")], "cannot be read"),
        ([str(tmp_path / "empty")], "run.json"),
    ):
        with pytest.raises(UserError, match=words):
            Pool(sources)
    part = next((tmp_path / "run" / "samples").iterdir())
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match="cut short"), Pool([run]) as pool:
        list(pool)


def test_runs_of_other_questions_are_refused(tmp_path):
    a = random_run(tmp_path / "a")
    changed = [Question(q.id, q.question, "other\n#### 1") for q in QUESTIONS]
    b = random_run(tmp_path / "b", questions=changed)
    with pytest.raises(UserError, match="another gold solution"), Pool([str(a), str(b)]) as pool:
        list(pool)


def test_a_failed_selection_leaves_the_old_file(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    file = write_jsonl(tmp_path / "in.jsonl", [*file_rows(k=2), {"question_id": "z", "completion": "", "answer": "?"}])
    with pytest.raises(UserError, match="holds no number"), Pool([str(file)]) as pool:
        select_pool(pool, out)
    assert out.read_text() == "old"
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def test_an_unfinished_run_can_be_looked_at(tmp_path):
    run = random_run(tmp_path / "run")
    (run / "rft.jsonl").unlink()  # only the order comes from it
    with Pool([str(run)]) as pool:
        assert {q.id for q in pool} == {q.id for q in QUESTIONS}
    assert len(list(RunDir.read_questions(run))) == len(QUESTIONS)
