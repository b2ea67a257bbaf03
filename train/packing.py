"""Packing: which documents make a step, and how they lie in rows of a bounded number of tokens.

A step is a global batch: so many documents, drawn by a hash of (seed, epoch, document id). Neither the order of the data nor
the number of processes nor the token budget has a say in it. Within a step, documents are put into as few rows as the budget
allows, best fit decreasing, under the smallest bound that this number of rows can keep: so rows are all about as long, no
position is padding, and processes that take a row each wait for none.

With ``paths_together`` > 1, paths of a question come into the same step and share its prompt in a row (see
:mod:`rftfast.train.tree_attention`). A step then holds fewer questions: that is the price of the tokens saved.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from rftfast.train.documents import Document


@dataclass(frozen=True, eq=False)
class Unit:
    """What is never torn apart: one document, or several with the same prompt, which then stands in the row once.

    The prompt's last token is not shared: each path repeats it, since it predicts the path's own first token.
    """

    documents: tuple[Document, ...]

    @property
    def shared(self) -> int:
        """Tokens that stand there once for all the documents; 0 for a single document."""
        return self.documents[0].prompt_length - 1 if len(self.documents) > 1 else 0

    @cached_property
    def tokens(self) -> int:
        """Positions the unit takes in a row."""
        return sum(len(document) for document in self.documents) - self.shared * (len(self.documents) - 1)


@dataclass(frozen=True, eq=False)
class Row:
    """One packed row: what one forward and backward pass works on. Without units it is a dummy, which has no loss."""

    units: tuple[Unit, ...]
    budget_tokens: int

    @cached_property
    def tokens(self) -> int:
        """Positions of the row, at most the budget."""
        return sum(unit.tokens for unit in self.units)

    @property
    def documents(self) -> tuple[Document, ...]:
        return tuple(document for unit in self.units for document in unit.documents)


@dataclass(frozen=True, eq=False)
class Step:
    """One global batch: the same documents whatever the number of processes. Iterating gives the rows of one process."""

    epoch: int
    index: int
    """Within the epoch, from 0."""
    units: tuple[Unit, ...]
    budget_tokens: int

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows())

    @property
    def documents(self) -> tuple[Document, ...]:
        return tuple(document for unit in self.units for document in unit.documents)

    @cached_property
    def response_tokens(self) -> int:
        """Tokens with loss."""
        return sum(document.response_tokens for unit in self.units for document in unit.documents)

    @property
    def divisor(self) -> int:
        """What the sum of the losses is divided by."""
        return self.response_tokens

    @cached_property
    def tokens(self) -> int:
        """Positions fed to the model."""
        return sum(unit.tokens for unit in self.units)

    @cached_property
    def useful_tokens(self) -> int:
        """Tokens of the documents, a prompt counted for each of them."""
        return sum(len(document) for unit in self.units for document in unit.documents)

    def rows(self, world: int = 1) -> list[Row]:
        """The step in rows, a multiple of ``world`` many, about equally long; dummies where there are too few units."""
        units = sorted(self.units, key=lambda unit: (-unit.tokens, unit.documents[0].id))
        lengths = [unit.tokens for unit in units]
        count = -(-self.tokens // (self.budget_tokens * world)) * world
        while (packed := _pack_evenly(lengths, count, self.budget_tokens)) is None:
            count += world
        rows = [Row(tuple(units[i] for i in row), self.budget_tokens) for row in packed]
        rows += [Row((), self.budget_tokens)] * (count - len(rows))
        return sorted(rows, key=lambda row: -row.tokens)


def plan_steps(
    documents: Sequence[Document],
    *,
    budget_tokens: int,
    documents_per_step: int,
    seed: int,
    epoch: int,
    paths_together: int = 1,
) -> list[Step]:
    """The steps of one epoch, each with ``documents_per_step`` documents, the last one with what remains.

    Args:
        documents: with ids of their own, none longer than the budget; their order does not matter.
        budget_tokens: the most positions of a row.
        paths_together: how many documents of a group are drawn together, to share their prompt in a row. 1: every document
            is drawn by itself and nothing is shared.
    """
    assert documents_per_step >= 1 and paths_together >= 1
    assert all(len(document) <= budget_tokens for document in documents)
    drawn = _drawn(documents, seed, epoch, paths_together)
    steps = []
    for index, start in enumerate(range(0, len(drawn), documents_per_step)):
        chosen = drawn[start : start + documents_per_step]
        units = _units(chosen, budget_tokens) if paths_together > 1 else [Unit((document,)) for document in chosen]
        steps.append(Step(epoch, index, tuple(units), budget_tokens))
    return steps


def rows_for_rank(step: Step, rank: int, world: int) -> list[Row]:
    """The rows of one process: as many for each, about as many tokens for each, the longest first."""
    assert 0 <= rank < world, (rank, world)
    rows = step.rows(world)
    turns = len(rows) // world
    # Every second turn backwards, so that no process has the longest row each time.
    return [rows[turn * world + (rank if turn % 2 == 0 else world - 1 - rank)] for turn in range(turns)]


def _drawn(documents: Sequence[Document], seed: int, epoch: int, together: int) -> list[Document]:
    """The documents in the epoch's order: by hash, those of a group in runs of up to ``together``."""
    keys = {document.id: _hash(seed, epoch, document.id) for document in documents}
    assert len(keys) == len(documents), "two documents have one id"
    order = sorted(documents, key=lambda document: keys[document.id])
    if together == 1:
        return order
    groups: dict[str, list[Document]] = {}
    for document in order:
        groups.setdefault(document.group, []).append(document)
    runs = [group[i : i + together] for group in groups.values() for i in range(0, len(group), together)]
    runs.sort(key=lambda run: keys[run[0].id])
    return [document for run in runs for document in run]


def _hash(seed: int, epoch: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{epoch}/{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _units(documents: Sequence[Document], budget: int) -> list[Unit]:
    """Documents with one group and one prompt together, as many as fit into a row."""
    together: dict[tuple[str, bytes], list[list[Document]]] = {}
    for document in documents:
        # A prompt of one token has nothing to share: that token is each path's own.
        key = (document.group, document.prompt) if document.prompt_length > 1 else (document.id, b"")
        lists = together.setdefault(key, [[]])
        if lists[-1] and Unit((*lists[-1], document)).tokens > budget:
            lists.append([])
        lists[-1].append(document)
    return [Unit(tuple(run)) for lists in together.values() for run in lists]


def _pack_evenly(lengths: list[int], count: int, budget: int) -> list[list[int]] | None:
    """Indices into the descending ``lengths`` in at most ``count`` rows that are as short as can be; None if none fits."""
    bound = max(lengths[0], -(-sum(lengths) // count))
    while bound <= budget:
        rows = _best_fit(lengths, bound, count)
        if rows is not None:
            return rows
        if bound == budget:
            break
        bound = min(budget, bound + 1 + bound // 512)
    return None


def _best_fit(lengths: list[int], bound: int, count: int) -> list[list[int]] | None:
    """Best fit decreasing into rows of at most ``bound``; None if that takes more than ``count`` rows."""
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    rows: list[list[int]] = []
    for i, length in enumerate(lengths):
        at = bisect.bisect_left(room, (length, -1))
        if at < len(room):
            left, row = room.pop(at)
        elif len(rows) < count:
            left, row = bound, len(rows)
            rows.append([])
        else:
            return None
        rows[row].append(i)
        bisect.insort(room, (left - length, row))
    return rows
