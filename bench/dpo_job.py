"""What one trainer on preference pairs is asked to do: the same pairs in the same global batches, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class PairJob:
    """Train ``model`` (a folder) for ``warm_up + steps`` steps; the first ``warm_up`` of them are left out of the time.

    ``data`` is a preference file for our trainer. TRL's gets ``pairs``, the same tokens in the order in which ours takes them:
    (prompt, chosen, rejected). So both see the same ``batch`` pairs in each step, at a constant learning rate.
    """

    engine: str
    model: str
    data: str
    pairs: tuple[tuple[Tokens, Tokens, Tokens], ...]
    batch: int
    micro_batch: int
    row_tokens: int
    warm_up: int
    steps: int
    lr: float
    beta: float
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        assert min(self.batch, self.micro_batch, self.row_tokens, self.steps, self.threads) >= 1, self
        assert len(self.pairs) == self.batch * (self.warm_up + self.steps), (len(self.pairs), self.batch)
        assert self.batch % self.micro_batch == 0, (self.batch, self.micro_batch)

    @property
    def measured(self) -> tuple[tuple[Tokens, Tokens, Tokens], ...]:
        """The pairs of the steps that count."""
        return self.pairs[self.batch * self.warm_up :]

    @property
    def useful_tokens(self) -> int:
        """Tokens of the measured steps: a prompt for each completion, no padding."""
        return sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in self.measured)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> PairJob:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        pairs = tuple(tuple(tuple(part) for part in pair) for pair in data["pairs"])
        return cls(**{**data, "pairs": pairs})
