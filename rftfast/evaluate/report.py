"""The figures of an evaluation as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rftfast.evaluate.intervals import CONFIDENCE
from rftfast.evaluate.paired import Comparison
from rftfast.evaluate.scores import ModelScores


def report(models: Sequence[ModelScores], comparison: Mapping[str, Comparison], vote: str) -> bytes:
    """An object with ``vote``, ``confidence``, ``models`` (as ``ModelScores.report``) and, of two models, ``comparison``."""
    value: dict[str, Any] = {
        "vote": vote,
        "confidence": CONFIDENCE,
        "models": [model.report() for model in models],
    }
    if comparison:
        value["comparison"] = {name: c.report() for name, c in comparison.items()}
    return json.dumps(value, indent=2).encode() + b"\n"
