"""Which pairs make a step and how they lie in rows."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from rftfast.errors import UserError
from rftfast.train.batch import IGNORED
from rftfast.train.documents import Document
from rftfast.train.packing import Row
from rftfast.train.preference_batch import collate_pairs
from rftfast.train.preference_documents import Pair
from rftfast.train.preference_packing import PairUnit, plan_pairs
from tests.train.test_dpo_loss import made_pairs


def plan(pairs, **changes):
    settings = {"budget_tokens": 120, "pairs_per_step": 5, "seed": 0, "epoch": 0}
    return plan_pairs(pairs, **settings | changes)


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_pair_is_there_once_and_whole(world, together):
    pairs = made_pairs(weighted=False, questions=7, each=4)
    steps = plan(pairs, pairs_together=together)
    assert [step.divisor for step in steps] == [5, 5, 5, 5, 5, 3]
    seen = Counter(pair.id for step in steps for pair in step.pairs)
    assert seen == {pair.id: 1 for pair in pairs}
    for step in steps:
        rows = step.rows(world)
        assert len(rows) % world == 0
        placed = []
        for row in rows:
            assert row.tokens <= 120
            batch = collate_pairs(row)
            placed += [(batch.ids[c], batch.ids[r]) for c, r in zip(batch.chosen, batch.rejected, strict=True)]
        assert sorted(placed) == sorted((pair.chosen.id, pair.rejected.id) for pair in step.pairs)


def test_order_is_of_seed_and_epoch_alone():
    pairs = made_pairs(weighted=False, questions=7, each=4)

    def order(given, **changes):
        return [pair.id for step in plan(given, **changes) for pair in step.pairs]

    assert order(pairs) == order(pairs[::-1]) == order(pairs, budget_tokens=300)
    assert len({tuple(order(pairs, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(order(pairs)) == sorted(order(pairs, seed=1))


def test_pairs_of_a_question_share_its_prompt():
    pairs = made_pairs(weighted=False, questions=3, each=4)
    (apart,) = plan(pairs, pairs_per_step=12, budget_tokens=1000)
    (together,) = plan(pairs, pairs_per_step=12, budget_tokens=1000, pairs_together=4)
    assert (len(apart.units), len(together.units)) == (12, 3)
    assert together.tokens < apart.tokens < apart.useful_tokens == together.useful_tokens
    assert together.tokens == sum(
        len(p.chosen) + len(p.rejected) - 2 * (p.chosen.prompt_length - 1) for p in pairs
    ) + sum(p.chosen.prompt_length - 1 for p in pairs[::4])


def test_numbers_of_a_step():
    pairs = made_pairs(weighted=True, questions=1, each=2)
    (step,) = plan(pairs, pairs_together=2)
    assert step.useful_tokens == sum(len(d) for p in pairs for d in p.documents)
    assert step.chosen_tokens == sum(len(p.chosen) - p.chosen.prompt_length for p in pairs)
    assert step.response_tokens == sum(d.response_tokens for p in pairs for d in p.documents)


def test_labels_of_a_row_follow_its_completions():
    weighted = [
        Pair(f"w{p.id}", *(dataclasses.replace(d, id=f"w{d.id}") for d in p.documents), p.weight)
        for p in made_pairs(weighted=True, prompt=1, questions=2)
    ]
    pairs = [*made_pairs(weighted=False, questions=2), *weighted]
    row = Row(tuple(PairUnit.of([pair]) for pair in [pairs[4], *pairs[:4], *pairs[5:]]), 1000)
    reference = {d.id: float(i) for i, d in enumerate(d for p in pairs for d in p.documents)}
    batch = collate_pairs(row, reference, 0.25)
    labels = batch.row.labels[batch.row.labels != IGNORED].split(batch.counts.tolist())
    by_id = {d.id: d for p in pairs for d in p.documents}
    for name, label, length in zip(batch.ids, labels, batch.lengths.tolist(), strict=True):
        document = by_id[name]
        kept = slice(document.prompt_length, None)
        weights = np.ones(len(document)) if document.weights is None else document.weights
        assert label.tolist() == document.tokens[kept][weights[kept] != 0].tolist()
        assert length == weights[kept].sum()
    assert batch.reference.tolist() == [reference[name] for name in batch.ids]
    named = {batch.ids[c]: weight for c, weight in zip(batch.chosen.tolist(), batch.weights.tolist(), strict=True)}
    assert named == {pair.chosen.id: pair.weight for pair in pairs}
    assert batch.sft == 0.25
    assert {x.device.type for x in vars(batch.to("meta")).values() if hasattr(x, "device")} == {"meta"}


def test_pairs_too_long_for_a_row_are_named():
    pairs = made_pairs(weighted=False)
    long = Document("x/chosen", np.arange(2, 150, dtype=np.int32) % 90 + 2, 4, "x")
    other = Document("x/rejected", long.tokens[:6], 4, "x")
    with pytest.raises(UserError, match="1 of 7 pairs take more than the 120 tokens of a row: x; raise --row-tokens"):
        plan([*pairs, Pair("x", long, other)])
