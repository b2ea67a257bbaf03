"""Preference pairs, by each definition, on a run made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rftfast.errors import UserError
from rftfast.negatives.pairs import PairOptions, write_pairs
from rftfast.negatives.pits import PitRule
from rftfast.negatives.records import RolledQuestion
from tests.negatives.hand_made import RIGHT, WRONG, make_rollouts, make_run, response, rolled, state

PROMPT = "Q: 2 and 3, doubled?\nA:"
GOLD = " <<2+3=5>>5\n<<5*2=10>>10\n#### 10"
FAR = {0: "Twice is <<5*2=10>>10, so\n#### 10", 1: "\n#### 10", 2: "Twice <<5*2=11>>\n#### 10"}


def question(second: str = "-----", **texts: Any) -> RolledQuestion:
    """Sample 1 goes wrong in its second step, sample 3 in its first; sample 0 is right."""
    states = [state("++++-", **texts), state(second), state("-----"), state("-----"), state("-----")]
    return rolled(response(1), response(3, first=3), response(0, first=3), states=states)


def pairs(folder: Path, definition: str, rolled_question: RolledQuestion | None = None, **options: Any) -> list[dict]:
    if not (folder / "run").exists():
        make_run(folder / "run")
    rollouts = folder / f"rollouts-{len(list(folder.iterdir()))}"
    if rolled_question is not None:
        make_rollouts(rollouts, rolled_question)
    write_pairs(folder / "run", rollouts, folder / "out.jsonl", PairOptions(definition, **options))
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


def test_paper_rejected_is_the_wrong_answer_up_to_and_with_its_pit(tmp_path: Path) -> None:
    first, second = pairs(tmp_path, "paper", question())
    assert {first["prompt"], second["prompt"]} == {PROMPT}
    assert first["rejected"] == " Sum <<2+3=5>>5\nHalf <<5/2=2.5>>2.5\n"
    assert second["rejected"] == " Product <<2*3=6>>6\n"
    assert {first["chosen"], second["chosen"]} == {" " + RIGHT[0], " " + RIGHT[1]}, "each kept path in turn, no slip"
    assert [first["rejected_ends"], second["rejected_ends"]] == [False, False]
    assert [first["chosen_ends"], second["chosen_ends"]] == [True, True]
    assert (first["pit"], first["rejected_index"], first["shared"]) == (1, 1, 0)
    assert (second["pit"], second["rejected_index"]) == (0, 3)
    assert [first["rejected"][s["start"] : s["end"]] for s in first["steps"]] == [
        " Sum <<2+3=5>>5\n",
        "Half <<5/2=2.5>>2.5\n",
    ]
    assert [(s["q"], s["advantage"]) for s in first["steps"]] == [(0.8, pytest.approx(0.3)), (0.0, -0.8)]


def test_paper_with_the_gold_solution(tmp_path: Path) -> None:
    rows = pairs(tmp_path, "paper", question(), chosen="gold")
    assert [(r["chosen"], r["chosen_from"], r["chosen_index"], r["chosen_ends"]) for r in rows] == [
        (GOLD, "gold", None, True)
    ] * 2


def test_a_gold_answer_without_a_solution_is_never_chosen(tmp_path: Path) -> None:
    make_run(tmp_path / "run", answer_only=True)
    with pytest.raises(UserError, match=r"not one pair \(2 × no correct solution\)"):
        pairs(tmp_path, "paper", question(), chosen="gold")
    assert len(pairs(tmp_path, "paper", question())) == 2


def test_a_pit_at_the_end_ends_the_answer(tmp_path: Path) -> None:
    hopeful = rolled(response(1), states=[state("+++++")] * 3)
    (row,) = pairs(tmp_path, "paper", hopeful)
    assert row["rejected"] == " " + WRONG[0] and row["rejected_ends"] is True and row["pit"] == 3
    cut = rolled(response(5), states=[state("+++++")])  # one that was cut at its most tokens does not
    (row,) = pairs(tmp_path, "paper", cut)
    assert row["rejected"] == " Well\nwho knows" and row["rejected_ends"] is False


def test_shared_prefix_both_go_on_from_the_steps_before_the_pit(tmp_path: Path) -> None:
    first, second = pairs(tmp_path, "shared-prefix", question(texts=FAR))
    assert first["prompt"] == PROMPT + " Sum <<2+3=5>>5\n"
    assert first["rejected"] == "Half <<5/2=2.5>>2.5\n" and first["rejected_ends"] is False
    assert first["chosen"] == "\n#### 10", "the shortest of the right ones"
    assert (first["chosen_from"], first["chosen_index"], first["chosen_ends"]) == ("rollout", 1, True)
    assert first["shared"] == len(" Sum <<2+3=5>>5\n")
    assert (first["prompt"] + first["rejected"])[len(PROMPT) :][first["steps"][1]["start"] :] == "Half <<5/2=2.5>>2.5\n"
    # The first step is the pit: a whole solution against that step.
    assert second["prompt"] == PROMPT and second["rejected"] == " Product <<2*3=6>>6\n"
    assert second["chosen"].lstrip() in RIGHT and second["chosen_from"] == "sample"


def test_shared_prefix_takes_no_rollout_twice_none_with_a_false_equation_and_says_if_one_was_cut(
    tmp_path: Path,
) -> None:
    """Two responses with the same state before their pits."""
    twice = response(1)
    states = [state("+-+-+", {0: "long way round\n#### 10", 2: "<<1+1=3>>\n#### 10", 4: "\n#### 10"}, {0: "length"})]
    states += [state("-----")] * 2
    other = response(3, states=(None, 0, 1))
    rows = pairs(tmp_path, "shared-prefix", rolled(twice, other, states=states))
    assert [r["chosen"] for r in rows] == ["\n#### 10", "long way round\n#### 10"]
    assert [r["chosen_ends"] for r in rows] == [True, False]
    third = rolled(twice, other, response(5, states=(None, 0)), states=states)
    assert len(pairs(tmp_path, "shared-prefix", third)) == 2, "no correct rollout is left for it"


def test_no_pair_comes_twice(tmp_path: Path) -> None:
    """Two responses with the same pit and one solution to set against both."""
    alike = response(3, first=3)
    again = rolled(response(1), alike, replace(alike, sample_index=3), states=question().states[:5])
    rows = pairs(tmp_path, "paper", again, chosen="gold")
    assert [r["rejected_index"] for r in rows] == [1, 3]


def test_outcome_pairs_whole_answers(tmp_path: Path) -> None:
    rows = pairs(tmp_path, "outcome")
    assert sorted(r["chosen"] for r in rows) == sorted(" " + text for text in RIGHT)
    assert sorted(r["rejected"] for r in rows) == sorted(" " + text for text in WRONG)
    assert all(r["rejected_ends"] and r["chosen_ends"] and r["pit"] is None and r["steps"] == [] for r in rows)
    several = {tuple(r["rejected_index"] for r in pairs(tmp_path, "outcome", seed=seed)) for seed in range(12)}
    assert several == {(1, 3), (3, 1)}


def test_edit_distance_takes_the_farthest(tmp_path: Path) -> None:
    from rapidfuzz.distance.Levenshtein import distance

    rows = pairs(tmp_path, "edit-distance")
    farthest = max(WRONG, key=lambda text: distance(text, RIGHT[0]))
    assert (rows[0]["chosen"], rows[0]["rejected"]) == (" " + RIGHT[0], " " + farthest)
    assert rows[1]["rejected"] != rows[0]["rejected"]


@pytest.mark.parametrize("definition", ["outcome", "edit-distance"])
def test_kept_paths_are_taken_in_turn(tmp_path: Path, definition: str) -> None:
    """As many pairs as a definition by steps would give: one for each wrong answer, up to the most a question."""
    wrong = [(f"Sum <<2+3=5>>5\n{'and ' * i}so\n#### {i}", "stop") for i in range(5)]
    make_run(tmp_path / "run", [(RIGHT[0], "stop"), *wrong, (RIGHT[1], "stop")])
    rows = pairs(tmp_path, definition)
    assert [r["chosen_index"] for r in rows] == [0, 6, 0, 6, 0]
    assert sorted(r["rejected_index"] for r in rows) == [1, 2, 3, 4, 5]
    assert [r["chosen_index"] for r in pairs(tmp_path, definition, most=3)] == [0, 6, 0]


def test_the_pit_is_that_of_the_rule(tmp_path: Path) -> None:
    marks = question(second="+----")
    assert [r["pit"] for r in pairs(tmp_path, "paper", marks)] == [2, 0]
    rule = PitRule("least-advantage", best_of=1)
    assert [r["pit"] for r in pairs(tmp_path, "paper", marks, rule=rule)] == [1, 0]
    only = pairs(tmp_path, "paper", marks, rule=PitRule("drop", low=0.2, high=0.7))
    assert [r["pit"] for r in only] == [1], "the other one never looked good"


def test_at_most_so_many_pairs_a_question(tmp_path: Path) -> None:
    assert len(pairs(tmp_path, "paper", question(), most=1)) == 1
    assert len(pairs(tmp_path, "outcome", most=1)) == 1


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    def written(seed: int) -> str:
        return json.dumps(pairs(tmp_path, "paper", question(), seed=seed))

    assert written(1) == written(1)
    assert len({written(seed) for seed in range(8)}) == 2


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run 'rftfast rollout' first"):
        pairs(tmp_path, "paper")
    with pytest.raises(UserError, match="definition is 'best'"):
        PairOptions("best")
    with pytest.raises(UserError, match="leave --chosen out"):
        PairOptions("outcome", chosen="gold")
    with pytest.raises(UserError, match="0: ask for at least 1"):
        PairOptions(most=0)
    other = make_run(tmp_path / "other", [(RIGHT[0], "stop"), (WRONG[1], "stop")])
    rollouts = make_rollouts(tmp_path / "rolled", question())
    with pytest.raises(UserError, match="sample 1: the rollouts are of another text"):
        write_pairs(other, rollouts, tmp_path / "out.jsonl", PairOptions())
    barren = make_run(tmp_path / "barren", [(WRONG[0], "stop"), (WRONG[0], "stop")])
    with pytest.raises(UserError, match=r"not one pair .1 × no correct solution"):
        write_pairs(barren, rollouts, tmp_path / "never.jsonl", PairOptions("outcome"))
    assert not (tmp_path / "never.jsonl").exists()
