"""Supervised fine-tuning: ``torchrun train/sft.py --model M --data train.jsonl --out ckpt`` (or plain python)."""

import os
import sys

# Before torch is loaded: threads that wait sleep soon instead of starving their partners (see docs/lab-book.md).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def main() -> int:
    from rftfast.train import entry

    return entry.main("sft", "Fine-tune a base model on solutions as they are (supervised fine-tuning).")


if __name__ == "__main__":
    # Run as a file, Python looks for modules beside it first, where ours would hide others of the same name.
    if sys.path and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__)):
        sys.path.pop(0)
    sys.exit(main())
