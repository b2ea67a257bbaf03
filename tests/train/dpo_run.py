"""Tiny files of preference pairs, and runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rftfast.train.dpo_config import PreferenceConfig
from tests.train.tiny_run import write_model


def rows(count: int = 12) -> list[dict[str, Any]]:
    """Two pairs a question, as 'rftfast pairs' writes them: rejected texts end at a pit, without an end token."""
    found = []
    for i in range(count):
        n = i // 2
        prompt = f"Question: How much is {n} + {n}" + " again" * (n % 4) + "?\nAnswer:"
        wrong = f" {n}+{n} = {i + 1}\n"
        found.append(
            {
                "prompt": prompt,
                "chosen": f" {n}+{n} = {2 * n}" + "." * (n % 3) + f"\n#### {2 * n}",
                "rejected": wrong,
                "question_id": f"q{n}",
                "chosen_ends": True,
                "rejected_ends": False,
                "steps": [{"start": 0, "end": len(wrong), "q": 0.0, "advantage": -0.5}],
                "shared": 0,
            }
        )
    return found


def write_rows(file: Path, found: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return file


def options(root: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of 3 epochs of 3 steps of 4 pairs, in rows of 160 tokens, on files made in ``root``."""
    model, data = root / "base", root / "pairs.jsonl"
    if not model.exists():
        write_model(model)
    if not data.exists():
        write_rows(data, rows())
    plain = {"model": str(model), "data": str(data), "out": str(root / "out"), "batch_size": 4, "lr": 1e-3}
    plain |= {"reference": str(root / "reference"), "row_tokens": 160, "max_length": 120, "dtype": "float32"}
    plain |= {"threads": 1, "tensorboard": False}
    return plain | changes


def config(root: Path, **changes: Any) -> PreferenceConfig:
    return PreferenceConfig(**options(root, **changes))


def arguments(root: Path, **changes: Any) -> list[str]:
    """The same as a command line."""
    found = []
    for name, value in options(root, **changes).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(option if value else option.replace("--", "--no-", 1))
        else:
            found += [option, str(value)]
    return found


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
