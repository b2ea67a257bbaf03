"""Which documents make a step, and how they lie in rows."""

import numpy as np
import pytest

from rftfast.train.documents import Document
from rftfast.train.packing import Row, Unit, plan_steps, rows_for_rank


def made(count: int, *, seed: int = 0, paths: int = 1, low: int = 20, high: int = 60) -> list[Document]:
    """``count`` questions with ``paths`` documents each; prompts and responses of random lengths."""
    rng = np.random.default_rng(seed)
    found = []
    for q in range(count):
        prompt = rng.integers(0, 90, rng.integers(low, high))
        for p in range(paths):
            response = rng.integers(0, 90, rng.integers(low, 3 * high))
            tokens = np.concatenate([prompt, response]).astype(np.int32)
            found.append(Document(f"q{q}/{p}", tokens, len(prompt), f"q{q}"))
    return found


def ids(steps):
    return [[document.id for document in step.documents] for step in steps]


PLAN = {"budget_tokens": 1000, "documents_per_step": 32, "seed": 1, "epoch": 0}


def test_every_document_once_an_epoch_in_steps_of_one_size():
    documents = made(150)
    steps = plan_steps(documents, **PLAN)
    assert [len(step.documents) for step in steps] == [32, 32, 32, 32, 22]
    assert sorted(name for step in ids(steps) for name in step) == sorted(d.id for d in documents)
    assert [step.index for step in steps] == list(range(5))


def test_steps_depend_on_seed_and_epoch_alone():
    documents = made(150)
    first = ids(plan_steps(documents, **PLAN))
    assert ids(plan_steps(documents[::-1], **PLAN)) == first
    assert ids(plan_steps(documents, **PLAN | {"budget_tokens": 5000})) == first
    assert ids(plan_steps(documents, **PLAN | {"epoch": 1})) != first
    assert ids(plan_steps(documents, **PLAN | {"seed": 2})) != first


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("paths", [1, 5])
def test_processes_share_the_same_step(world, paths):
    steps = plan_steps(made(100, paths=paths), **PLAN, paths_together=paths)
    for step in steps:
        ranks = [rows_for_rank(step, rank, world) for rank in range(world)]
        assert len({len(rows) for rows in ranks}) == 1
        rows = [row for rank in ranks for row in rank]
        assert sorted(d.id for row in rows for d in row.documents) == sorted(d.id for d in step.documents)
        assert all(row.tokens <= 1000 for row in rows)
        assert [r.documents for r in rows_for_rank(step, 0, world)] == [r.documents for r in ranks[0]]
        if len(step.units) > 6 * len(rows):
            loads = [sum(row.tokens for row in rank) for rank in ranks]
            assert max(loads) < 1.1 * min(loads)


def test_rows_are_as_few_as_can_be_and_equally_long():
    steps = plan_steps(made(640), **PLAN | {"documents_per_step": 64, "budget_tokens": 2000})
    for step in steps:
        rows = step.rows()
        assert len(rows) == -(-step.tokens // 2000)
        assert step.tokens >= 0.97 * len(rows) * max(row.tokens for row in rows)


def test_gsm8k_rows_are_98_percent_full(gsm8k_dir):
    from rftfast.data.questions import load_questions

    # Words and signs stand in for tokens: lengths are what matters here.
    documents = []
    for question in load_questions(gsm8k_dir / "train.jsonl"):
        lengths = len(question.question) // 4 + 5, len(question.answer) // 3 + 2
        documents.append(Document(question.id, np.zeros(sum(lengths), np.int32), lengths[0], question.id))
    steps = plan_steps(documents, budget_tokens=4096, documents_per_step=128, seed=0, epoch=0)
    room = sum(len(step.rows()) * max(row.tokens for row in step.rows()) for step in steps)
    assert sum(step.tokens for step in steps) >= 0.98 * room


def test_too_few_documents_leave_dummies():
    (step,) = plan_steps(made(2), **PLAN)
    rows = [rows_for_rank(step, rank, 4) for rank in range(4)]
    assert sorted(len(row[0].units) for row in rows) == [0, 0, 1, 1]


def test_paths_of_a_question_share_its_prompt():
    documents = made(60, paths=6)
    plan = PLAN | {"documents_per_step": 48}
    apart = plan_steps(documents, **plan)
    together = plan_steps(documents, **plan, paths_together=6)
    assert all(step.tokens == step.useful_tokens for step in apart)
    assert sum(step.useful_tokens for step in together) == sum(step.useful_tokens for step in apart)
    assert all(len({document.group for document in step.documents}) <= 9 for step in together)
    for step in together:
        for unit in step.units:
            prompts = {document.tokens[: document.prompt_length].tobytes() for document in unit.documents}
            assert len(prompts) == 1
            paths = sum(len(d) - d.prompt_length + 1 for d in unit.documents)
            assert unit.tokens == (len(unit.documents[0]) if len(unit.documents) == 1 else unit.shared + paths)


def test_fewer_paths_together_spread_a_question_over_steps():
    documents = made(60, paths=6)
    questions = [
        np.mean([len({d.group for d in step.documents}) for step in plan_steps(documents, **PLAN, paths_together=n)])
        for n in (6, 2, 1)
    ]
    assert 5 < questions[0] < 8 < questions[1] < 17 < questions[2]
    saved = [
        sum(s.useful_tokens - s.tokens for s in plan_steps(documents, **PLAN, paths_together=n)) for n in (1, 2, 6)
    ]
    assert 0 == saved[0] < saved[1] < saved[2]


def test_a_unit_fits_into_a_row():
    steps = plan_steps(made(20, paths=13), **PLAN, paths_together=13)
    assert all(unit.tokens <= 1000 for step in steps for unit in step.units)
    assert any(len(unit.documents) > 1 for step in steps for unit in step.units)


def test_other_prompts_of_a_group_are_not_shared():
    a, b = (Document(n, np.full(6, i, np.int32), 4, "g") for i, n in enumerate("ab"))
    (step,) = plan_steps([a, b], **PLAN, paths_together=4)
    assert [len(unit.documents) for unit in step.units] == [1, 1]


def test_a_prompt_of_one_token_has_nothing_to_share():
    twins = [Document(n, np.zeros(6, np.int32), 1, "g") for n in "ab"]
    (step,) = plan_steps(twins, **PLAN, paths_together=4)
    assert [unit.shared for unit in step.units] == [0, 0]


def test_rows_count_positions():
    a, b = (Document(n, np.zeros(10, np.int32), 4, "g") for n in "ab")
    unit = Unit((a, b))
    assert (unit.shared, unit.tokens) == (3, 3 + 7 + 7)
    assert Row((unit, Unit((a,))), 100).tokens == 27
