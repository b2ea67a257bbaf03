"""A packed row of pairs as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from rftfast.train.batch import Batch, collate
from rftfast.train.packing import Row
from rftfast.train.preference_packing import PairUnit


@dataclass(frozen=True, eq=False)
class PairBatch:
    """One packed row with D completions and P pairs of them.

    Attributes:
        row: the row itself.
        ids: [D], the completions in the order in which their labels stand in the row.
        counts: [D] int64, how many labels each has.
        lengths: [D] float32, the sum of their weights.
        reference: [D] float32, their (weighted) log-probabilities under the reference.
        chosen, rejected: [P] int64, which completions each pair has.
        weights: [P] float32, of the pairs.
        sft: what the sum over pairs of the chosen completions' negative log-probabilities is multiplied with.
    """

    row: Batch
    ids: tuple[str, ...]
    counts: torch.Tensor
    lengths: torch.Tensor
    reference: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor
    weights: torch.Tensor
    sft: float = 0.0

    def to(self, device: torch.device | str) -> PairBatch:
        names = ("counts", "lengths", "reference", "chosen", "rejected", "weights")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, row=self.row.to(device), **moved)


def collate_pairs(row: Row, reference: Mapping[str, float] | None = None, sft: float = 0.0) -> PairBatch:
    """``row`` of :class:`PairUnit` units on the CPU; ``reference``: log-probability of each document by id, None for 0."""
    # collate lays units with a shared prompt down first.
    units: list[PairUnit] = []
    for unit in sorted(row.units, key=lambda unit: not unit.shared):
        assert isinstance(unit, PairUnit)
        units.append(unit)
    documents = [document for unit in units for document in unit.documents]
    places: list[tuple[int, int]] = []
    before = 0
    for unit in units:
        places += [(before + chosen, before + rejected) for chosen, rejected in unit.places]
        before += len(unit.documents)
    pairs = [pair for unit in units for pair in unit.pairs]
    lengths = [float(d.response_tokens if d.weights is None else d.weights[d.prompt_length :].sum()) for d in documents]
    return PairBatch(
        row=collate(row),
        ids=tuple(document.id for document in documents),
        counts=torch.tensor([document.response_tokens for document in documents], dtype=torch.int64),
        lengths=torch.tensor(lengths, dtype=torch.float32),
        reference=torch.tensor([0.0 if reference is None else reference[d.id] for d in documents], dtype=torch.float32),
        chosen=torch.tensor([chosen for chosen, _ in places], dtype=torch.int64),
        rejected=torch.tensor([rejected for _, rejected in places], dtype=torch.int64),
        weights=torch.tensor([pair.weight for pair in pairs], dtype=torch.float32),
        sft=sft,
    )
