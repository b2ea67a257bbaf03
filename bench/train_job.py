"""What one trainer is asked to do: the same documents in the same global batches, handed to its process as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainJob:
    """Train ``model`` (a folder) for ``warm_up + steps`` steps; the first ``warm_up`` of them are left out of the time.

    ``data`` is a prompt-completion file for our trainer, which reads and tokenises it itself. The others get ``documents``:
    the same tokens, in the order in which ours takes them, as (tokens, length of the prompt). So every trainer sees the
    same ``batch`` documents in each step, at a constant learning rate, and their losses can be compared step by step.
    """

    engine: str
    model: str
    data: str
    documents: tuple[tuple[tuple[int, ...], int], ...]
    batch: int
    micro_batch: int
    row_tokens: int
    warm_up: int
    steps: int
    lr: float
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        assert min(self.batch, self.micro_batch, self.row_tokens, self.steps, self.threads) >= 1, self
        assert len(self.documents) == self.batch * (self.warm_up + self.steps), (len(self.documents), self.batch)
        assert self.batch % self.micro_batch == 0, (self.batch, self.micro_batch)

    @property
    def batches(self) -> list[tuple[tuple[tuple[int, ...], int], ...]]:
        """The documents of each step."""
        return [self.documents[i : i + self.batch] for i in range(0, len(self.documents), self.batch)]

    @property
    def useful_tokens(self) -> int:
        """Tokens of the measured steps, padding not counted."""
        return sum(len(tokens) for batch in self.batches[self.warm_up :] for tokens, _ in batch)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> TrainJob:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        documents = tuple((tuple(tokens), prompt) for tokens, prompt in data["documents"])
        return cls(**{**data, "documents": documents})
