"""Training on preference pairs: ``torchrun train/dpo.py --model M --data pairs.jsonl --out ckpt`` (or plain python)."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rftfast.train.entry import Training

# Before torch is loaded: threads that wait sleep soon instead of starving their partners (see docs/lab-book.md).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main() -> int:
    from rftfast.train import entry
    from rftfast.train.dpo_config import PreferenceConfig

    about = "Train a model on preference pairs: direct preference optimisation (DPO), or IPO."
    return entry.main("dpo", about, options=PreferenceConfig, load=_load)


def _load() -> "Training":
    from rftfast.train.dpo_job import prepare
    from rftfast.train.dpo_trainer import PreferenceTrainer

    return prepare, PreferenceTrainer


if __name__ == "__main__":
    # Run as a file, Python looks for modules beside it first, where ours would hide others of the same name.
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        sys.path.pop(0)
    sys.exit(main())
