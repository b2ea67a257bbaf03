"""A tiny model and question files to train it on, in less than a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rftfast.train.config import TrainConfig
from tests.tiny_model import write_tiny_llama


def write_model(folder: Path) -> Path:
    return write_tiny_llama(folder, hidden=32)


def write_questions(file: Path, count: int = 12) -> Path:
    """Rows of different lengths, as GSM8K has them."""
    rows = []
    for i in range(count):
        rows.append(
            {
                "id": f"q{i}",
                "question": f"How much is {i} + {i}" + " again" * (i % 4) + "?",
                "answer": f"{i}+{i} = <<{i}+{i}={2 * i}>>{2 * i}" + "." * (i % 5) + f"\n#### {2 * i}",
            }
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def options(root: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of 3 epochs of 3 steps of 4 questions, in rows of 200 tokens, on files made in ``root``."""
    model, data = root / "base", root / "q.jsonl"
    if not model.exists():
        write_model(model)
    if not data.exists():
        write_questions(data)
    plain = {"model": str(model), "data": str(data), "out": str(root / "out"), "batch_size": 4, "lr": 1e-2}
    plain |= {"row_tokens": 200, "max_length": 200, "dtype": "float32", "threads": 1, "tensorboard": False}
    return plain | changes


def config(root: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(**options(root, **changes))


def arguments(root: Path, **changes: Any) -> list[str]:
    """The same as a command line."""
    found = []
    for name, value in options(root, **changes).items():
        option = f"--{name.replace('_', '-')}"
        if value is False:
            found.append(option.replace("--", "--no-", 1))
        elif value is True:
            found.append(option)
        else:
            found += [option, str(value)]
    return found


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
