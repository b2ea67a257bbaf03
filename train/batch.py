"""A packed row as tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from rftfast.train.documents import Document
from rftfast.train.packing import Row
from rftfast.train.tree_attention import Layout, TreeMask

IGNORED = -100
"""The label of a position without loss."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One packed row of T positions.

    Attributes:
        input_ids: [1, T] int64.
        position_ids: [1, T] int64; from 0 in each document, and in each path on from the prefix it shares.
        labels: [T] int64, the token that position t is to predict (already shifted), -100 where there is no loss.
        weights: [T] float32, the weight of the loss there.
        loss_positions: [R] int64, ascending, where labels are. Known here, so that no device is waited for to find them.
        layout: which position attends to which; goes into the model's forward as ``packed=``.
        ids: the documents', in the order of the row's units.
        response_tokens: positions with a label.
        useful_tokens: tokens of the documents, a prompt counted for each of them.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    loss_positions: torch.Tensor
    layout: Layout
    ids: tuple[str, ...]
    response_tokens: int
    useful_tokens: int

    @property
    def cu_seqlens(self) -> torch.Tensor:
        return self.layout.cu_seqlens

    @property
    def max_seqlen(self) -> int:
        return self.layout.max_seqlen

    @property
    def tree(self) -> TreeMask | None:
        return self.layout.tree

    def to(self, device: torch.device | str) -> Batch:
        """The batch on ``device``; copies do not wait where the host's memory is pinned."""

        def moved(x: torch.Tensor) -> torch.Tensor:
            return x.to(device, non_blocking=True)

        layout = self.layout._replace(cu_seqlens=moved(self.layout.cu_seqlens))
        if layout.tree is not None:
            tree = layout.tree
            tree = tree._replace(cu_paths=moved(tree.cu_paths), cu_prefixes=moved(tree.cu_prefixes))
            layout = layout._replace(tree=tree)
        return replace(
            self,
            input_ids=moved(self.input_ids),
            position_ids=moved(self.position_ids),
            labels=moved(self.labels),
            weights=moved(self.weights),
            loss_positions=moved(self.loss_positions),
            layout=layout,
        )


class _Parts:
    """The row's segments as they are laid down, one after the other."""

    def __init__(self) -> None:
        self.tokens: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        self.weights: list[np.ndarray] = []
        self.bounds = [0]

    def add(self, document: Document, start: int, end: int, *, loss: bool) -> None:
        """The document's tokens ``start:end`` as one segment."""
        self.tokens.append(document.tokens[start:end])
        self.positions.append(np.arange(start, end))
        labels = np.full(end - start, IGNORED, np.int64)
        weights = np.ones(end - start, np.float32)
        if loss:
            first = document.prompt_length - 1 - start  # predicts the first token of the response
            labels[first:-1] = document.tokens[start + first + 1 : end]
            if document.weights is not None:
                weights[first:-1] = document.weights[start + first + 1 : end]
                labels[weights == 0] = IGNORED
        self.labels.append(labels)
        self.weights.append(weights)
        self.bounds.append(self.bounds[-1] + end - start)


def collate(row: Row, multiple: int = 1) -> Batch:
    """``row`` as tensors on the CPU, laid out as :mod:`rftfast.train.tree_attention` wants it.

    A dummy row becomes two positions without a label. ``multiple``: T is one of it; a segment without labels fills the row up.
    """
    shared = [unit for unit in row.units if unit.shared]
    alone = [unit for unit in row.units if not unit.shared]
    parts = _Parts()
    for unit in shared:
        parts.add(unit.documents[0], 0, unit.shared, loss=False)
    prefixes = parts.bounds[:]
    paths = [0]
    for unit in shared:
        for document in unit.documents:
            parts.add(document, unit.shared, len(document), loss=True)
        paths.append(parts.bounds[-1] - prefixes[-1])
    path_end = parts.bounds[-1]
    for unit in alone:
        for document in unit.documents:  # several where their prompt is one token, which is each path's own
            parts.add(document, 0, len(document), loss=True)
    if not row.units:
        nothing = Document("dummy", np.zeros(2, np.int32), 1, "dummy")
        parts.add(nothing, 0, 2, loss=False)
    fill = -parts.bounds[-1] % multiple
    if fill:
        parts.add(Document("filler", np.zeros(fill + 1, np.int32), 1, "filler"), 0, fill, loss=False)
    tree = None
    if shared:
        tree = TreeMask(
            prefixes[-1],
            path_end,
            torch.tensor(paths, dtype=torch.int32),
            torch.tensor(prefixes, dtype=torch.int32),
            int(np.diff(paths).max()),
            int(np.diff(prefixes).max()),
        )
    documents = row.documents
    layout = Layout(
        torch.tensor(parts.bounds, dtype=torch.int32),
        int(np.diff(parts.bounds).max()),
        max((len(document) for document in documents), default=2),
        tree,
    )
    labels = torch.from_numpy(np.concatenate(parts.labels))
    loss_positions = (labels != IGNORED).nonzero()[:, 0]
    return Batch(
        input_ids=torch.from_numpy(np.concatenate(parts.tokens).astype(np.int64))[None],
        position_ids=torch.from_numpy(np.concatenate(parts.positions).astype(np.int64))[None],
        labels=labels,
        weights=torch.from_numpy(np.concatenate(parts.weights)),
        loss_positions=loss_positions,
        layout=layout,
        ids=tuple(document.id for document in documents),
        response_tokens=len(loss_positions),
        useful_tokens=sum(len(document) for document in documents),
    )
