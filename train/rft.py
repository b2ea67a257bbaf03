"""Rejection-sampling fine-tuning: ``torchrun train/rft.py --model M --data runs/x --out ckpt`` (or plain python)."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rftfast.train.entry import Training

# Before torch is loaded: threads that wait sleep soon instead of starving their partners (see docs/lab-book.md).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main() -> int:
    from rftfast.train import entry
    from rftfast.train.config import RftConfig

    about = "Fine-tune a base model on verified reasoning paths (rejection-sampling fine-tuning)."
    return entry.main("rft", about, options=RftConfig, load=_load)


def _load() -> "Training":
    from rftfast.train.advantages import prepare
    from rftfast.train.trainer import Trainer

    return prepare, Trainer


if __name__ == "__main__":
    # Run as a file, Python looks for modules beside it first, where ours would hide others of the same name.
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        sys.path.pop(0)
    sys.exit(main())
