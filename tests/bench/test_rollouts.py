"""The rollout benchmark: every engine gets the same prefixes, and ours computes each of them once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import bench.rollouts
from bench.rollout_engines import Group, Work, measure
from bench.rollouts import groups_of, main, run_engine
from bench.schema import Result
from rftfast.errors import UserError
from tests.negatives.given_run import make_run
from tests.tiny_model import write_tiny_llama

TEXTS = {
    "a": ["one\ntwo\n#### 3", "one\ntwo\nthree\n#### 4"],
    "b": ["#### 1", "#### 2"],
    "c": ["x\n#### 1", "y\nz\n#### 2"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    return make_run(folder, TEXTS, "7", write_tiny_llama(folder / "model"), max_tokens=60)


def work(run: Path, **change: object) -> Work:
    model = str(run.parent / "model")
    given = Work("rftfast", model, groups_of(run, 2, 2), 3, 4, 1, "float32", 0.7, 0, 60.0, str(run.parent))
    return replace(given, **change)


def test_prefixes_that_are_alike_are_counted_once(run: Path) -> None:
    first, second = groups_of(run, 2, 2)
    assert first.prefixes == ((5, 9), (15,)), "one, two; and three, as the other two are there already"
    assert [len(state) - len(first.prompt) for state in first.states()] == [9, 5, 15]
    assert second.prefixes == ((3,), (3, 5)), "the question without steps is left out"
    with pytest.raises(UserError, match="2 questions have 2 wrong answers of several steps and 3 are wanted"):
        groups_of(run, 2, 3)


def test_ours_with_and_without_sharing(run: Path, tmp_path: Path) -> None:
    given = work(run)
    given.write(tmp_path / "work.json")
    assert Work.read(tmp_path / "work.json") == given
    shared, private = measure(given), measure(replace(given, engine="rftfast-noshare"))
    free = measure(replace(given, engine="rftfast-free"))
    assert (free.tokens, free.extra["prefill_tokens"]) == (shared.tokens, shared.extra["prefill_tokens"])
    assert shared.tokens == private.tokens == 6 * 3 * 4 and shared.samples == 18 and not shared.partial
    paths = [len(state) - 1 for group in given.groups for state in group.states() for _ in range(3)]
    assert private.extra["prefill_tokens"] == sum(paths)
    contexts = {state[:n] for group in given.groups for state in group.states() for n in range(1, len(state))}
    # The prompt of the warm-up may begin like the others.
    assert len(contexts) - 2 <= shared.extra["prefill_tokens"] <= len(contexts)
    assert measure(replace(given, budget_s=1e-9)).partial


def test_an_engine_in_a_process_of_its_own(run: Path) -> None:
    """One that fails is a row of the table, with its words."""
    status, why = run_engine(work(run, groups=(Group((1, 2), ((3, 999),), ((2,),)),)))  # type: ignore[misc]
    assert status == "error" and "outside the vocabulary" in why


def test_the_result_says_all_there_is_to_know(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.rollouts, "run_engine", measure)
    out = tmp_path / "out.json"
    arguments = ["--run", str(run), "--model", str(run.parent / "model"), "--engines", "rftfast,rftfast-noshare"]
    arguments += ["--negatives", "2", "--n-questions", "1", "--max-tokens", "4", "--dtype", "float32", "--threads", "1"]
    assert main([*arguments, "--json", str(out)]) == 0
    result = Result.read(out)
    assert [row.engine for row in result.rows] == ["rftfast", "rftfast-noshare"]
    assert result.settings["states"] == 3 and json.loads(out.read_text())["benchmark"] == "rollouts"
    assert "rollouts/CPU s" in capsys.readouterr().out
    assert main([*arguments, "--engines", "magic"]) == 2
