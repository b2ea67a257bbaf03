"""What a run on preference pairs is asked for: the trainer's options with other defaults, and its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rftfast.errors import UserError
from rftfast.train.config import Schedule, TrainConfig
from rftfast.train.objective import Loss, Objective


@dataclass(frozen=True)
class PreferenceConfig(TrainConfig):
    """The defaults are those of Self-Explore (Hwang et al. 2024, arXiv 2404.10346), as arXiv 2406.14532 does not give its own.

    Raises:
        UserError: a value outside its range, named by its option.
    """

    model: str
    """Model to train, which is the reference as well: folder, GGUF file, named model or Hugging Face name."""
    data: str
    """Pairs (see 'rftfast pairs'): a JSONL, JSON or Parquet file with columns prompt, chosen and rejected."""
    prompt: str | None = None
    """Template that the prompts were made with and that is stored with the model. Default: that of the run the pairs lie in,
    or of the model."""
    limit: int | None = None
    """Only the first pairs of the data."""
    drop_long: bool = False
    """Leave out pairs longer than --max-length instead of refusing them."""
    max_length: int = 512
    """Most tokens of a prompt and one of its completions."""
    epochs: int = 3
    """Times every pair is seen."""
    batch_size: int = 32
    """Pairs a step, over all processes and rows."""
    share_prompts: int = 1
    """Bring up to this many pairs of a question into one step and compute their prompt, and completions they have in common,
    once. The two completions of a pair always share their prompt."""
    lr: float = 1e-6
    """Peak learning rate."""
    schedule: Schedule = "linear"
    """How the learning rate falls to 0 after warm-up: cosine, linear or constant (not at all)."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises from 0 to its peak."""
    seed: int = 0
    """Of the order of the pairs."""
    validation: str | None = None
    """Pairs that are not trained on: their loss, accuracy and margin are measured while the model learns."""

    loss: Loss = "sigmoid"
    """Of a pair: sigmoid (DPO) or ipo (squared, on means over tokens)."""
    beta: float = 0.1
    """How strongly the model is held to the reference; IPO's tau."""
    label_smoothing: float = 0.0
    """Chance that chosen and rejected are the wrong way round (sigmoid)."""
    sft: float = 0.0
    """Weight of the cross-entropy of the chosen completions, a mean over their tokens, added to the loss."""
    reference: str | None = None
    """Folder in which log-probabilities of the reference are kept for later runs on the same model and data.
    Default: 'reference' in the cache folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < math.inf:
            raise UserError(f"--beta is {self.beta}; it must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"--label-smoothing is {self.label_smoothing}; it must be from 0 to below 0.5")
        if self.label_smoothing and self.loss != "sigmoid":
            raise UserError(f"--label-smoothing belongs to --loss sigmoid, not {self.loss}; leave one of them out")
        if not 0 <= self.sft < math.inf:
            raise UserError(f"--sft is {self.sft}; it must be 0 or more")

    @property
    def objective(self) -> Objective:
        return Objective(self.loss, self.beta, self.label_smoothing)

    def identity(self) -> dict[str, Any]:
        return {name: value for name, value in super().identity().items() if name != "reference"}
