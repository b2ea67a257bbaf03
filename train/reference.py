"""Log-probabilities of the reference model: computed once, kept on the disk, found again by what they depend on.

``FOLDER/<key>/reference.json`` says what the key is the hash of; ``logprobs.jsonl`` has a line for each completion. Lines
are appended as they are computed, so whoever is killed goes on behind the last whole line, and other runs on the same model
and data (another β, another learning rate) compute nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rftfast.data.atomic import append_whole, write_atomic, write_errors
from rftfast.data.jsonl import parse_row
from rftfast.data.lock import RunLock
from rftfast.errors import UserError
from rftfast.train.preference_packing import PairStep, PairUnit

_FACTS = "reference.json"
_VALUES = "logprobs.jsonl"
_WAIT_S = 600.0
_FORMAT = 1


class ReferenceStore:
    """One reference's values on the disk, for one writer at a time: ``values`` by the completions' ids. A context manager.

    ``facts`` are what they depend on (model, data, template, precision); the folder is named by their hash.

    Raises:
        UserError: another process has been computing the same for ten minutes, a damaged file, or a disk that refuses.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = place_of(folder, facts)
        self._file = self.folder / _VALUES
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder)
        try:
            if not (self.folder / _FACTS).is_file():
                write_atomic(self.folder / _FACTS, [_text(facts) + b"\n"])
            self.values = self._read()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> ReferenceStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def add(self, values: Mapping[str, float]) -> None:
        """Append log-probabilities by the completions' ids. UserError if one is not finite, or the disk refuses."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name}: the reference model gives it the log-probability {value}; look at this row, or train in float32"
                )
        lines = (json.dumps({"id": name, "logprob": value}) + "\n" for name, value in values.items())
        append_whole(self._file, "".join(lines).encode())
        self.values.update(values)

    def _read(self) -> dict[str, float]:
        """The values in the file, which is cut behind its last whole line."""
        if not self._file.is_file():
            return {}
        data = self._file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with write_errors(self._file):
                os.truncate(self._file, whole)
        found: dict[str, float] = {}
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            row = parse_row(line, str(self._file), number)
            if not isinstance(row.get("id"), str) or not isinstance(row.get("logprob"), float):
                raise UserError(
                    f"{self._file}, line {number}: no log-probability; remove {self.folder} to compute it again"
                )
            found[row["id"]] = row["logprob"]
        return found


def place_of(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Where in ``folder`` the values are that depend on ``facts``."""
    return folder / hashlib.blake2b(_text(facts), digest_size=16).hexdigest()


def _text(facts: Mapping[str, Any]) -> bytes:
    return json.dumps({"format": _FORMAT, **facts}, sort_keys=True, indent=1).encode()


def _locked(folder: Path) -> RunLock:
    """The folder's lock, waited for: whoever holds it is computing just what is wanted here."""
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            return RunLock(folder)
        except UserError as error:
            if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > until:
                raise
            time.sleep(1)


def pending(steps: Sequence[PairStep], known: Mapping[str, float]) -> list[PairStep]:
    """The steps with a completion whose log-probability is not ``known`` yet."""
    return [step for step in steps if any(d.id not in known for pair in step.pairs for d in pair.documents)]


def of_all(step: PairStep, found: Mapping[str, float]) -> dict[str, float]:
    """Log-probabilities of all completions of a step, out of those of the ones that its rows hold.

    A completion that several pairs of a unit have stands in its row once, under one of its ids.
    """
    values = {}
    for unit in step.units:
        assert isinstance(unit, PairUnit)
        for pair, places in zip(unit.pairs, unit.places, strict=True):
            for document, place in zip(pair.documents, places, strict=True):
                values[document.id] = found[unit.documents[place].id]
    return values
