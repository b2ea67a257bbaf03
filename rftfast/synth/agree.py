"""Which problem is kept: several of the teacher's solutions agree on the answer, and their calculations are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rftfast.errors import UserError
from rftfast.synth.teacher import Text
from rftfast.verify import Policy, verify_batch


@dataclass(frozen=True)
class Agreement:
    """``answer``: the one that most solutions give, None if none gives any. ``votes``: how many do; ``good``: the indices of
    those of them whose equations hold, too. ``tied``: another answer has as many votes."""

    answer: str | None
    votes: int
    good: tuple[int, ...]
    tied: bool

    def votes_of(self, solutions: int) -> str:
        """In words, of so many."""
        if self.answer is None:
            return f"none of {solutions} solutions gives an answer"
        return f"{self.votes} of {solutions} solutions give {self.answer}{', as many for another' if self.tied else ''}"


def agreement(solutions: Sequence[Text], policy: Policy) -> Agreement:
    """By the verifier's own comparison, each solution against each other's answer; a text cut at its length has no vote."""
    texts = [s.text.strip() for s in solutions]
    whole = [i for i, s in enumerate(solutions) if not s.cut]
    # What answer each gives is asked for with a gold that any of them may differ from.
    found = verify_batch([texts[i] for i in whole], ["#### 0"] * len(whole), policy) if whole else []
    answers = {i: v.answer for i, v in zip(whole, found, strict=True) if v.answer is not None}
    groups: list[Agreement] = []
    placed: set[int] = set()
    for i, answer in answers.items():
        rest = [j for j in answers if j not in placed]
        if i in placed:
            continue
        try:
            verdicts = verify_batch([texts[j] for j in rest], [answer] * len(rest), policy)
        except UserError:  # an answer that can be no gold is no answer to agree on
            placed.add(i)
            continue
        good = [j for j, v in zip(rest, verdicts, strict=True) if v.correct]
        slips = [j for j, v in zip(rest, verdicts, strict=True) if v.verdict == "wrong_equation"]
        placed.update(good, slips, (i,))
        groups.append(Agreement(answer, len(good) + len(slips), tuple(good), False))
    if not groups:
        return Agreement(None, 0, (), False)
    best = max(groups, key=lambda group: group.votes)
    return replace(best, tied=sum(group.votes == best.votes for group in groups) > 1)
