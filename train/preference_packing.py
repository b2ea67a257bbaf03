"""Packing of pairs: a step's pairs in rows, all completions of a prompt as paths of one tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rftfast.errors import UserError
from rftfast.train.documents import Document
from rftfast.train.packing import Step, Unit, plan_steps
from rftfast.train.preference_documents import Pair, content

_NAMED = 5  # pairs named in a message


@dataclass(frozen=True, eq=False)
class PairUnit(Unit):
    """Pairs with one prompt, which lie in a row together: the prompt stands there once, and so does a completion that several
    of them have.

    ``places``: of each pair, where its two completions stand among ``documents``.
    """

    pairs: tuple[Pair, ...]
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> PairUnit:
        """``pairs`` share group and prompt."""
        found: dict[bytes, int] = {}
        kept: list[Document] = []
        places = []
        for pair in pairs:
            place = []
            for document in pair.documents:
                key = content(document)
                if key not in found:
                    found[key] = len(kept)
                    kept.append(document)
                place.append(found[key])
            places.append((place[0], place[1]))
        return cls(tuple(kept), tuple(pairs), tuple(places))


@dataclass(frozen=True, eq=False)
class PairStep(Step):
    """One global batch of pairs. Its loss is a mean over pairs, not over tokens."""

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(pair for unit in self.units for pair in pairs_of(unit))

    @property
    def divisor(self) -> int:
        return len(self.pairs)

    @cached_property
    def useful_tokens(self) -> int:  # type: ignore[override]
        """Tokens of the completions, a prompt counted for each of them."""
        return sum(len(document) for pair in self.pairs for document in pair.documents)

    @cached_property
    def chosen_tokens(self) -> int:
        """Tokens with loss of all chosen completions."""
        return sum(pair.chosen.response_tokens for pair in self.pairs)


def pairs_of(unit: Unit) -> tuple[Pair, ...]:
    assert isinstance(unit, PairUnit)
    return unit.pairs


def plan_pairs(
    pairs: Sequence[Pair],
    *,
    budget_tokens: int,
    pairs_per_step: int,
    seed: int,
    epoch: int,
    pairs_together: int = 1,
    unit: str = "pairs",
) -> list[PairStep]:
    """The steps of one epoch, each with ``pairs_per_step`` pairs, the last one with what remains.

    The order is that of :func:`rftfast.train.packing.plan_steps`: a hash of seed, epoch and the pair's name. With
    ``pairs_together`` > 1 so many pairs of a question are drawn together, to share its prompt. Messages call them ``unit``.

    Raises:
        UserError: a pair that does not fit into a row.
    """
    long = [pair for pair in pairs if PairUnit.of([pair]).tokens > budget_tokens]
    if long:
        names = ", ".join(pair.id for pair in long[:_NAMED]) + ", …" * (len(long) > _NAMED)
        raise UserError(
            f"{len(long)} of {len(pairs)} {unit} take more than the {budget_tokens} tokens of a row: {names}; raise --row-tokens"
        )
    by_name = {pair.chosen.id: pair for pair in pairs}
    drawn = plan_steps(
        [pair.chosen for pair in pairs],
        budget_tokens=budget_tokens,
        documents_per_step=pairs_per_step,
        seed=seed,
        epoch=epoch,
        paths_together=pairs_together,
    )
    steps = []
    for step in drawn:
        chosen = [by_name[document.id] for document in step.documents]
        units = pair_units(chosen, budget_tokens) if pairs_together > 1 else [PairUnit.of([pair]) for pair in chosen]
        steps.append(PairStep(step.epoch, step.index, tuple(units), budget_tokens))
    return steps


def pair_units(pairs: Sequence[Pair], budget: int) -> list[PairUnit]:
    """Pairs with one group and one prompt together, as many as fit into a row of ``budget`` tokens."""
    together: dict[tuple[str, bytes], list[list[Pair]]] = {}
    for pair in pairs:
        lists = together.setdefault((pair.chosen.group, pair.prompt), [[]])
        if lists[-1] and PairUnit.of([*lists[-1], pair]).tokens > budget:
            lists.append([])
        lists[-1].append(pair)
    return [PairUnit.of(run) for lists in together.values() for run in lists]
