"""``metrics.jsonl`` of a sampling run: its figures as it went on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rftfast.data.held_dir import METRICS_FILE
from rftfast.errors import UserError


def read_run_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of ``path``/metrics.jsonl; a run can do without the file, and its last line may be cut short.

    Raises:
        UserError: a line that is no JSON, with its number.
    """
    file = path / METRICS_FILE
    if not file.is_file():
        return []
    lines = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {number}: invalid JSON; remove that line") from error
        if isinstance(value, dict):
            lines.append(value)
    return lines


def questions_wanted(lines: Sequence[Mapping[str, Any]]) -> int | None:
    """How many questions the run was to have; None where its metrics do not say."""
    return next((line["questions"] for line in reversed(lines) if isinstance(line.get("questions"), int)), None)
