"""Preference pairs: what a model should have written, against what it wrote.

All are texts that go on from their prompt, in the columns of TRL's preference format. Whether a text *ends* there is said
beside it: after a step that does not end the answer there is no EOS to be learnt (``chosen_ends``, ``rejected_ends``).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rftfast.data.export import preference_row, write_jsonl
from rftfast.data.parts import StoredQuestion
from rftfast.data.record_dir import RecordIndex
from rftfast.errors import UserError
from rftfast.negatives.pits import PitRule, first_pit
from rftfast.negatives.records import Rolled, RolledQuestion, Rollout, advantages
from rftfast.negatives.responses import Response
from rftfast.negatives.source import Source
from rftfast.select.pairs import preference_pairs
from rftfast.select.training_rows import Selection
from rftfast.select.union import Candidate, PooledQuestion
from rftfast.verify import Policy, check_equation, find_equations, open_marks

DEFINITIONS = ("paper", "shared-prefix", "outcome", "edit-distance")
CHOSEN = ("sampled", "gold")


@dataclass(frozen=True)
class PairOptions:
    """Which pairs are made; ``y`` is a correct solution, ``ŷ`` a wrong one with the first pit c.

    ``paper``: prompt x, chosen y, rejected ŷ_1…ŷ_c (arXiv 2406.14532, Algorithm 1).
    ``shared-prefix``: prompt x and ŷ_1…ŷ_{c−1}, chosen the shortest correct rollout from there that is not used yet,
    rejected ŷ_c alone; where the first step is the pit, chosen y (as Self-Explore has it).
    ``outcome``: prompt x, chosen y, rejected a whole wrong answer, at random.
    ``edit-distance``: the kept y in turn, each against the wrong answer farthest from it that is not used yet.

    ``chosen``: y is one of the run's kept paths, or the gold solution (not for the last two, which take kept paths).
    ``most``: pairs a question.
    """

    definition: str = "paper"
    rule: PitRule = field(default_factory=PitRule)
    chosen: str = "sampled"
    seed: int = 0
    most: int = 8

    def __post_init__(self) -> None:
        if self.definition not in DEFINITIONS:
            raise UserError(f"definition is {self.definition!r}; choose one of {', '.join(DEFINITIONS)}")
        if self.chosen not in CHOSEN:
            raise UserError(f"chosen is {self.chosen!r}; choose one of {', '.join(CHOSEN)}")
        if self.chosen == "gold" and not self.by_steps:
            raise UserError(f"pairs by {self.definition} take the run's kept paths as chosen; leave --chosen out")
        if self.most < 1:
            raise UserError(f"most is {self.most}: ask for at least 1 pair a question")

    @property
    def by_steps(self) -> bool:
        """Whether rollouts are needed."""
        return self.definition in ("paper", "shared-prefix")


@dataclass
class PairTotals:
    """``skipped``: wrong responses (by steps) or questions that gave no pair, by reason."""

    questions: int = 0
    with_pairs: int = 0
    pairs: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    pits: Counter[int] = field(default_factory=Counter)
    rejected_ends: int = 0


@dataclass(frozen=True)
class _Solution:
    """A correct solution as a training row has it."""

    completion: str
    ends: bool
    source: str
    index: int | None


def write_pairs(run: str | Path, rollouts: Path, target: str | Path, options: PairOptions) -> PairTotals:
    """Write the pairs of a run as JSONL, whole or not at all, in the run's order.

    Columns: ``prompt``, ``chosen``, ``rejected``; ``question_id``; ``definition``; ``chosen_ends`` and ``rejected_ends``;
    ``chosen_from`` (sample, rollout or gold) and ``chosen_index``; ``rejected_index``, the sample that went wrong; ``pit``,
    its step from 0 (null without steps); ``steps`` up to and with the pit, each with ``start`` and ``end`` in characters
    after the question's own prompt, ``q`` and ``advantage``; ``shared``: how many of those characters are in ``prompt``.

    Raises:
        UserError: a damaged run, rollouts of another run, a rule that lacks rollouts, no pair at all, or a disk that refuses.
    """
    source = Source(run)
    index = _index(rollouts) if options.by_steps else None
    totals = PairTotals()

    def rows() -> Iterator[dict[str, Any]]:
        for name in source.order:
            stored = source.read(name)
            totals.questions += 1
            made = 0
            if index is None:
                found = _by_outcome(stored, options, totals)
            elif name in index:
                rolled = RolledQuestion.of(index.read(name), str(rollouts))
                found = _by_steps(stored, rolled, options, source.policy, totals)
            else:
                totals.skipped["question without rollouts"] += 1
                continue
            for row in found:
                made += 1
                totals.rejected_ends += row["rejected_ends"]
                yield row
            totals.pairs += made
            totals.with_pairs += made > 0
        if not totals.pairs:
            why = (
                ", ".join(f"{n} × {reason}" for reason, n in totals.skipped.most_common()) or "the run has no question"
            )
            raise UserError(f"{run}: not one pair ({why}); sample more, or roll out more responses")

    write_jsonl(target, rows())
    return totals


def _index(rollouts: Path) -> RecordIndex:
    try:
        return RecordIndex(rollouts)
    except UserError as error:
        raise UserError(f"{error}; pairs by steps need rollouts: run 'rftfast rollout' first") from None


def _by_steps(
    stored: StoredQuestion, rolled: RolledQuestion, options: PairOptions, policy: Policy, totals: PairTotals
) -> Iterator[dict[str, Any]]:
    solutions = _solutions(stored, options)
    texts = {row["sample_index"]: row["completion"] for row in stored.samples}
    used: set[tuple[int, int]] = set()
    seen: set[tuple[str, str, str]] = set()
    made = 0
    for response in rolled.responses:
        if response.right or made == options.most:
            continue
        if texts.get(response.sample_index) != response.text:
            raise UserError(
                f"question {stored.id!r}, sample {response.sample_index}: the rollouts are of another text than the run's; "
                "roll out again into a new folder"
            )
        pit = first_pit(rolled, response, options.rule)
        if pit is None:
            totals.skipped["no pit"] += 1
            continue
        shared = pit > 1 and options.definition == "shared-prefix"
        if shared:
            chosen = _continuation(rolled, response, pit, used, policy)
        else:
            chosen = solutions[made % len(solutions)] if solutions else None
        if chosen is None:
            totals.skipped["no correct rollout before the pit" if shared else "no correct solution"] += 1
            continue
        row = _row(stored, rolled, response, pit, chosen, options, shared)
        texts_of_pair = row["prompt"], row["chosen"], row["rejected"]
        if texts_of_pair in seen:  # responses that begin alike, and too few solutions to set against them
            totals.skipped["the same pair again"] += 1
            continue
        seen.add(texts_of_pair)
        made += 1
        totals.pits[pit] += 1
        yield row


def _row(
    stored: StoredQuestion,
    rolled: RolledQuestion,
    response: Rolled,
    pit: int,
    chosen: _Solution,
    options: PairOptions,
    shared: bool,
) -> dict[str, Any]:
    completion = stored.begin + response.text
    ends = [len(stored.begin) + end for end in response.ends]
    kept = ends[pit - 2] if shared else 0
    pair = preference_row(stored.prompt + completion[:kept], chosen.completion, completion[kept : ends[pit - 1]])
    values = rolled.values(response, 1)
    gains = advantages(values)
    steps = [
        {
            "start": ends[i - 1] if i else 0,
            "end": ends[i],
            "q": None if (value := values[i + 1]) is None else round(value.q, 6),
            "advantage": None if (gain := gains[i]) is None else round(gain.q, 6),
        }
        for i in range(pit)
    ]
    return {
        **pair,
        "question_id": stored.id,
        "definition": options.definition,
        "chosen_ends": chosen.ends,
        "rejected_ends": pit == len(ends) and response.complete,
        "chosen_from": chosen.source,
        "chosen_index": chosen.index,
        "rejected_index": response.sample_index,
        "pit": pit - 1,
        "steps": steps,
        "shared": kept,
    }


def _solutions(stored: StoredQuestion, options: PairOptions) -> list[_Solution]:
    """Correct solutions in the order in which they are chosen."""
    if options.chosen == "gold":
        if stored.answer_only:  # nobody should learn to prefer a bare number
            return []
        return [_Solution(stored.begin + stored.gold, True, "gold", None)]
    kept = [Response.of(row) for row in stored.samples if row["kept"]]
    random.Random(f"{options.seed} {stored.id}").shuffle(kept)
    return [_Solution(stored.begin + r.text.lstrip(), r.complete, "sample", r.sample_index) for r in kept]


def _continuation(
    rolled: RolledQuestion, response: Rolled, pit: int, used: set[tuple[int, int]], policy: Policy
) -> _Solution | None:
    """The shortest correct rollout from the state before the pit that no other pair has."""
    number = response.states[pit - 1]
    if number is None:
        return None
    candidates = [
        r
        for r in rolled.states[number].rollouts
        if r.right and r.text.strip() and (number, r.index) not in used and _equations_hold(r, policy)
    ]
    if not candidates:
        return None
    shortest = min(candidates, key=lambda r: (len(r.text), r.index))
    used.add((number, shortest.index))
    return _Solution(shortest.text, shortest.complete, "rollout", shortest.index)


def _equations_hold(rollout: Rollout, policy: Policy) -> bool:
    if policy.equations == "off":
        return True
    if policy.equations == "strict" and open_marks(rollout.text):
        return False
    return all(check_equation(equation, policy.equations) for equation in find_equations(rollout.text))


def _by_outcome(stored: StoredQuestion, options: PairOptions, totals: PairTotals) -> Iterator[dict[str, Any]]:
    by_index = {row["sample_index"]: Response.of(row) for row in stored.samples}
    candidates = {
        r.sample_index: Candidate(r.text, stored.begin + r.text.lstrip(), "", r.sample_index, r.verdict, r.answer, ())
        for r in by_index.values()
    }
    question = PooledQuestion(
        stored.id, stored.prompt, None, stored.begin, None, stored.gold, (), tuple(candidates.values())
    )
    kept = tuple(candidates[row["sample_index"]] for row in stored.samples if row["kept"])
    selection = Selection(question, kept, (), gold_is_new=False)
    rejected = "random" if options.definition == "outcome" else "farthest"
    pairs = preference_pairs(selection, rejected, options.seed, options.most)
    if not pairs:
        totals.skipped["no correct solution" if not kept else "no wrong answer"] += 1
    for chosen, wrong in pairs:
        yield {
            **preference_row(stored.prompt, chosen.completion, wrong.completion),
            "question_id": stored.id,
            "definition": options.definition,
            "chosen_ends": by_index[chosen.sample_index].complete,
            "rejected_ends": by_index[wrong.sample_index].complete,
            "chosen_from": "sample",
            "chosen_index": chosen.sample_index,
            "rejected_index": wrong.sample_index,
            "pit": None,
            "steps": [],
            "shared": 0,
        }
