"""Log-probabilities of the reference on the disk: found again, gone on with, never taken for another's."""

import json
import threading
import time

import pytest

from rftfast.errors import UserError
from rftfast.train import reference
from rftfast.train.packing import Row
from rftfast.train.preference_batch import collate_pairs
from rftfast.train.preference_documents import Pair
from rftfast.train.preference_packing import plan_pairs
from rftfast.train.reference import ReferenceStore, of_all, pending, place_of
from tests.train.test_dpo_loss import made_pairs

FACTS = {"model": "m", "documents": "d", "template": None}


def test_values_are_kept(tmp_path):
    with ReferenceStore(tmp_path, FACTS) as store:
        assert store.values == {}
        store.add({"a/chosen": -1.2345678901234567, "a/rejected": -3.0})
        store.add({"b/chosen \udcff": -1e-30})
    with ReferenceStore(tmp_path, FACTS) as store:
        assert store.values == {"a/chosen": -1.2345678901234567, "a/rejected": -3.0, "b/chosen \udcff": -1e-30}
        assert store.folder == place_of(tmp_path, FACTS)
    assert json.loads((store.folder / "reference.json").read_text()).items() >= FACTS.items()


@pytest.mark.parametrize("change", [{"model": "n"}, {"documents": "e"}, {"template": "{question}"}, {"more": 1}])
def test_other_facts_are_another_reference(tmp_path, change):
    with ReferenceStore(tmp_path, FACTS) as store:
        store.add({"a": -1.0})
    with ReferenceStore(tmp_path, FACTS | change) as store:
        assert store.values == {}


def test_a_line_cut_short_is_computed_again(tmp_path):
    with ReferenceStore(tmp_path, FACTS) as store:
        store.add({"a": -1.0, "b": -2.0})
    file = store.folder / "logprobs.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with ReferenceStore(tmp_path, FACTS) as store:
        assert store.values == {"a": -1.0}
        store.add({"b": -2.0})
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "line", ['{"id": 3, "logprob": -1.0}', '{"id": "a"}', '{"id": "a", "logprob": "x"}', "null", "{"]
)
def test_damage_is_said(tmp_path, line):
    with ReferenceStore(tmp_path, FACTS) as store:
        store.add({"a": -1.0})
    file = store.folder / "logprobs.jsonl"
    file.write_text(f"{line}\n{file.read_text()}")
    with pytest.raises(UserError, match=r"logprobs\.jsonl, line 1") as caught:
        ReferenceStore(tmp_path, FACTS)
    assert "\n" not in str(caught.value)
    file.unlink()
    with ReferenceStore(tmp_path, FACTS) as store:  # the lock was given back
        assert store.values == {}


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_refused(tmp_path, value):
    with ReferenceStore(tmp_path, FACTS) as store:
        with pytest.raises(UserError, match="q7/chosen: the reference model gives it the log-probability"):
            store.add({"q6/chosen": -1.0, "q7/chosen": value})
        assert store.values == {}


def test_two_runs_wait_for_each_other(tmp_path):
    first = ReferenceStore(tmp_path, FACTS)

    def finish():
        time.sleep(0.3)
        first.add({"a": -1.0})
        first.__exit__()

    thread = threading.Thread(target=finish)
    thread.start()
    with ReferenceStore(tmp_path, FACTS) as second:
        assert second.values == {"a": -1.0}
    thread.join()


def test_waiting_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "_WAIT_S", 0.0)
    with ReferenceStore(tmp_path, FACTS), pytest.raises(UserError, match="is in use by process"):
        ReferenceStore(tmp_path, FACTS)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        ReferenceStore(tmp_path / "file", FACTS)


def test_what_is_missing_and_whose_it_is():
    first, second = made_pairs(weighted=False, questions=1)
    twin = type(first.chosen)("twin", first.chosen.tokens, first.chosen.prompt_length, first.chosen.group)
    pairs = [first, Pair(second.id, twin, second.rejected)]
    steps = plan_pairs(pairs, budget_tokens=200, pairs_per_step=2, seed=0, epoch=0, pairs_together=2)
    (step,) = steps
    batch = collate_pairs(Row(step.units, 200))
    assert len(batch.ids) == 3
    values = of_all(step, {name: float(i) for i, name in enumerate(batch.ids)})
    assert set(values) == {d.id for pair in pairs for d in pair.documents}
    assert values["twin"] == values[first.chosen.id] != values[first.rejected.id]
    assert pending(steps, {}) == pending(steps, {"twin": 1.0}) == steps
    assert pending(steps, values) == []
